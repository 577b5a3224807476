//! The syntax of `cron`: five fields, `H`, and `TZ=` in front.

/// A field: what it is called, its range, and names for its numbers from the lowest on.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        min: 0,
        max: 59,
        names: &[],
    },
    Field {
        name: "hour",
        min: 0,
        max: 23,
        names: &[],
    },
    Field {
        name: "day of the month",
        min: 1,
        max: 31,
        names: &[],
    },
    Field {
        name: "month",
        min: 1,
        max: 12,
        names: &MONTHS,
    },
    Field {
        name: "day of the week",
        min: 0,
        max: 7,
        names: &DAYS,
    },
];

/// Longest `cron` string, bytes.
const CRON_BYTES_MAX: usize = 256;

/// Says what is wrong with a schedule, if anything is.
pub(super) fn check(text: &str) -> Result<(), String> {
    if text.len() > CRON_BYTES_MAX {
        return Err(format!("must have at most {CRON_BYTES_MAX} bytes"));
    }
    let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
    if let Some(zone) = words.first().and_then(|word| word.strip_prefix("TZ=")) {
        check_zone(zone)?;
        words.remove(0);
    }
    if words.len() != FIELDS.len() {
        return Err(format!(
            "must have five fields (minute, hour, day, month, weekday), not {}",
            words.len()
        ));
    }
    words.iter().zip(&FIELDS).try_for_each(|(word, field)| {
        word.split(',')
            .try_for_each(|part| field.check(part))
            .map_err(|why| format!("has a bad {} {word:?}: {why}", field.name))
    })
}

/// The name of a zone: `Europe/Berlin`. Whether a node knows it is found out there.
fn check_zone(zone: &str) -> Result<(), String> {
    let plain = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
    };
    if zone.split('/').all(plain) {
        return Ok(());
    }
    Err(format!("names no time zone such as TZ=Europe/Berlin: {zone:?}"))
}

impl Field {
    /// One part of a list: `*`, `H`, `H(a-b)`, `n` or `a-b`, each perhaps with `/step`.
    fn check(&self, part: &str) -> Result<(), String> {
        let (base, step) = match part.split_once('/') {
            Some((base, step)) => (base, Some(step)),
            None => (part, None),
        };
        if let Some(step) = step {
            let step = number(step).ok_or("a step is a number")?;
            if step == 0 || step > self.max {
                return Err(format!("a step is from 1 to {}", self.max));
            }
        }
        if base == "*" || base == "H" {
            return Ok(());
        }
        if let Some(range) = base.strip_prefix("H(").and_then(|rest| rest.strip_suffix(')')) {
            let (low, high) = range.split_once('-').ok_or("H takes a range: H(a-b)")?;
            return self.check_range(low, high);
        }
        match base.split_once('-') {
            Some((low, high)) => self.check_range(low, high),
            None if step.is_some() => Err("a step stands after *, H or a range".into()),
            None => self.value(base).map(drop),
        }
    }

    fn check_range(&self, low: &str, high: &str) -> Result<(), String> {
        // Sunday at the end of a range is 7, so that `sat-sun` goes forward.
        let last = match self.value(high)? {
            0 if self.max == 7 => 7,
            last => last,
        };
        if self.value(low)? > last {
            return Err("the range is backwards".into());
        }
        Ok(())
    }

    /// A number in the field's range, or a name.
    fn value(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(index) = self.names.iter().position(|name| *name == lower) {
            return Ok(self.min + u32::try_from(index).unwrap_or(0));
        }
        number(text)
            .filter(|n| (self.min..=self.max).contains(n))
            .ok_or_else(|| format!("numbers go from {} to {}", self.min, self.max))
    }
}

/// A number of at most two digits.
fn number(text: &str) -> Option<u32> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn good_schedules() {
        for text in [
            "H 3 * * 1-5",
            "TZ=Europe/Berlin H(0-29) */2 1,15 jan-JUN mon",
            "H/15 H(9-17)/2 * * *",
            "0 0 31 12 7",
            "TZ=UTC * * * * *",
            "0-10/5,30 1 1 1 0",
            "0 0 * * fri-SUN",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn bad_schedules() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "*/99 * * * *",
            "5/2 * * * *",
            "H( * * * *",
            "H(1) * * * *",
            "H(5-1) * * * *",
            ", * * * *",
            "1, * * * *",
            "* * * foo *",
            "@daily",
            "TZ= * * * * *",
            "TZ=../x * * * * *",
            "+1 * * * *",
            "001 * * * *",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
