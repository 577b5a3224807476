//! The five fields: what each may hold, and `H` made into numbers.

use std::collections::BTreeSet;

use super::Fault;

/// A field: what it is called, its range, the end of the range that `H` is spread over, and names
/// for its numbers from the lowest on.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    spread_max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Days of each month; February in a leap year.
const MONTH_DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        min: 0,
        max: 59,
        spread_max: 59,
        names: &[],
    },
    Field {
        name: "hour",
        min: 0,
        max: 23,
        spread_max: 23,
        names: &[],
    },
    // Every month has the day that H stands for.
    Field {
        name: "day of the month",
        min: 1,
        max: 31,
        spread_max: 28,
        names: &[],
    },
    Field {
        name: "month",
        min: 1,
        max: 12,
        spread_max: 12,
        names: &MONTHS,
    },
    // 7 is Sunday as well, and would make Sunday twice as likely.
    Field {
        name: "day of the week",
        min: 0,
        max: 7,
        spread_max: 6,
        names: &DAYS,
    },
];

/// Places of the fields that make a date.
const DAY: usize = 2;
const MONTH: usize = 3;
const WEEKDAY: usize = 4;

/// What a field allows.
enum Values {
    /// `*`: the field says nothing.
    Any,
    /// These numbers.
    Of(BTreeSet<u32>),
}

/// The fields of a schedule, understood.
pub(super) struct Fields(Vec<Values>);

impl Fields {
    /// Reads the five words.
    pub(super) fn parse(text: &str, words: &[&str], job: &str) -> Result<Self, Fault> {
        if words.len() != FIELDS.len() {
            let at = words.get(FIELDS.len()).copied().unwrap_or(&text[text.len()..]);
            let found = words.len();
            let what = format!("must have five fields (minute, hour, day, month, weekday), not {found}");
            return Err(Fault::new(text, at, what));
        }
        let mut values = Vec::new();
        for (number, (word, field)) in words.iter().zip(&FIELDS).enumerate() {
            let hash = spread(job, number);
            let mut set = BTreeSet::new();
            for part in word.split(',') {
                let bad = |why| Fault::new(text, part, format!("has a bad {} {word:?}: {why}", field.name));
                set.extend(field.values(part, hash).map_err(bad)?);
            }
            values.push(if *word == "*" { Values::Any } else { Values::Of(set) });
        }
        let fields = Fields(values);
        if !fields.has_a_day() {
            let what = format!("never comes: no such month has a day {}", words[DAY]);
            return Err(Fault::new(text, words[DAY], what));
        }
        Ok(fields)
    }

    /// Whether some month has one of the days.
    fn has_a_day(&self) -> bool {
        let (Values::Of(days), Values::Any) = (&self.0[DAY], &self.0[WEEKDAY]) else {
            return true;
        };
        let first = days.first().copied().unwrap_or(1);
        (1..).zip(MONTH_DAYS).any(|(month, last)| {
            let named = match &self.0[MONTH] {
                Values::Any => true,
                Values::Of(months) => months.contains(&month),
            };
            named && first <= last
        })
    }

    /// The same as numbers and stars only, with Sunday as 0.
    pub(super) fn plain(&self) -> String {
        let field = |(number, values): (usize, &Values)| match values {
            Values::Any => "*".to_owned(),
            Values::Of(set) => {
                let plain = |n: &u32| if number == WEEKDAY { n % 7 } else { *n };
                let set: BTreeSet<u32> = set.iter().map(plain).collect();
                set.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
            }
        };
        self.0.iter().enumerate().map(field).collect::<Vec<_>>().join(" ")
    }
}

impl Field {
    /// The numbers of one part of a list: `*`, `H`, `H(a-b)`, `n` or `a-b`, each but `n` perhaps
    /// with `/step`.
    fn values(&self, part: &str, hash: u64) -> Result<Vec<u32>, String> {
        let (base, step) = match part.split_once('/') {
            Some((base, step)) => (base, Some(self.step(step)?)),
            None => (part, None),
        };
        if base == "*" {
            return Ok(every(self.min, self.max, step.unwrap_or(1)));
        }
        if base == "H" {
            return Ok(self.spread(self.min, self.spread_max, step, hash));
        }
        if let Some(range) = base.strip_prefix("H(").and_then(|rest| rest.strip_suffix(')')) {
            let (low, high) = range.split_once('-').ok_or("H takes a range: H(a-b)")?;
            let (low, high) = self.range(low, high)?;
            return Ok(self.spread(low, high, step, hash));
        }
        match base.split_once('-') {
            Some((low, high)) => {
                let (low, high) = self.range(low, high)?;
                Ok(every(low, high, step.unwrap_or(1)))
            }
            None if step.is_some() => Err("a step stands after *, H or a range".into()),
            None => Ok(vec![self.value(base)?]),
        }
    }

    fn step(&self, text: &str) -> Result<u32, String> {
        let step = number(text).ok_or("a step is a number")?;
        if step == 0 || step > self.max {
            return Err(format!("a step is from 1 to {}", self.max));
        }
        Ok(step)
    }

    /// One number of the range; with a step, one of the first few and then each so many.
    fn spread(&self, low: u32, high: u32, step: Option<u32>, hash: u64) -> Vec<u32> {
        let width = high - low + 1;
        let choices = step.map_or(width, |step| step.min(width));
        let first = low + u32::try_from(hash % u64::from(choices)).unwrap_or(0);
        match step {
            Some(step) => every(first, high, step),
            None => vec![first],
        }
    }

    fn range(&self, low: &str, high: &str) -> Result<(u32, u32), String> {
        // Sunday at the end of a range is 7, so that `sat-sun` goes forward.
        let last = match self.value(high)? {
            0 if self.max == 7 => 7,
            last => last,
        };
        let first = self.value(low)?;
        if first > last {
            return Err("the range is backwards".into());
        }
        Ok((first, last))
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

/// Each `step`th number from `low` to `high`.
fn every(low: u32, high: u32, step: u32) -> Vec<u32> {
    (low..=high).step_by(usize::try_from(step).unwrap_or(1)).collect()
}

/// A number of at most two digits.
fn number(text: &str) -> Option<u32> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// What `H` of a job's field is made of: FNV-1a, then mixed so that names which differ in one
/// character lie far apart. It must never change: every `H` would move.
fn spread(job: &str, field: usize) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = job.bytes().chain(std::iter::once(field as u8));
    let mut hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
