//! The five fields: what each may hold, `H` made into numbers, and the days that fit.

use jiff::civil::Date;

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

/// Places of the fields.
const MINUTE: usize = 0;
const HOUR: usize = 1;
const DAY: usize = 2;
const MONTH: usize = 3;
const WEEKDAY: usize = 4;

/// Words that stand for five fields, as in cron.
const NAMES: [(&str, [&str; 5]); 7] = [
    ("@yearly", ["0", "0", "1", "1", "*"]),
    ("@annually", ["0", "0", "1", "1", "*"]),
    ("@monthly", ["0", "0", "1", "*", "*"]),
    ("@weekly", ["0", "0", "*", "*", "0"]),
    ("@daily", ["0", "0", "*", "*", "*"]),
    ("@midnight", ["0", "0", "*", "*", "*"]),
    ("@hourly", ["0", "*", "*", "*", "*"]),
];

/// What a field allows.
#[derive(Debug, Clone)]
struct Values {
    /// A bit for each number.
    bits: u64,
    /// It begins with `*`: for the rule of days it says nothing, whatever its step.
    starred: bool,
    /// It begins so and leaves no number out, as `*` and `*/1` do.
    any: bool,
}

impl Values {
    fn has(&self, number: u32) -> bool {
        self.bits >> number & 1 == 1
    }

    fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(|number| self.has(*number))
    }
}

/// The fields of a schedule, understood.
#[derive(Debug, Clone)]
pub(super) struct Fields([Values; 5], bool);

impl Fields {
    /// Reads the five words, or the one that stands for them.
    pub(super) fn parse(text: &str, words: &[&str], job: &str) -> Result<Self, Fault> {
        let words = match words {
            [word] if word.starts_with('@') => named(text, word)?,
            words => <[&str; 5]>::try_from(words).map_err(|_| {
                let at = words.get(FIELDS.len()).copied().unwrap_or(&text[text.len()..]);
                let found = words.len();
                let hint = if found > 0 && found.is_multiple_of(FIELDS.len()) {
                    ": a job has one schedule, so write lists as in 0 9,17 * * *, or another job for other times"
                } else {
                    ""
                };
                Fault::new(
                    text,
                    at,
                    format!("must have five fields (minute, hour, day, month, weekday), not {found}{hint}"),
                )
            })?,
        };
        let mut values = Vec::new();
        for (number, (word, field)) in words.iter().zip(&FIELDS).enumerate() {
            let hash = spread(job, number);
            let mut bits = 0;
            for part in word.split(',') {
                let bad = |why| Fault::new(text, part, format!("has a bad {} {word:?}: {why}", field.name));
                for number in field.values(part, hash).map_err(bad)? {
                    // 7 is Sunday, as 0 is.
                    let number = if field.max == 7 { number % 7 } else { number };
                    bits |= 1 << number;
                }
            }
            let starred = word.starts_with('*');
            values.push(Values {
                bits,
                starred,
                any: starred && (field.min..=field.spread_max).all(|number| bits >> number & 1 == 1),
            });
        }
        let Ok(values) = <[Values; 5]>::try_from(values) else {
            return Err(Fault::new(text, text, "must have five fields"));
        };
        let spread = words
            .iter()
            .flat_map(|word| word.split(','))
            .any(|part| part.starts_with('H'));
        let fields = Fields(values, spread);
        if !fields.has_a_day() {
            let what = format!("never comes: no such month has a day {}", words[DAY]);
            return Err(Fault::new(text, words[DAY], what));
        }
        Ok(fields)
    }

    /// Whether some number is spread by the job's name.
    pub(super) fn is_spread(&self) -> bool {
        self.1
    }

    /// Whether a day of the month and a weekday both say something; then a day that fits either
    /// counts, else one that fits both.
    fn either_day(&self) -> bool {
        !self.0[DAY].starred && !self.0[WEEKDAY].starred
    }

    /// Whether some month has one of the days.
    fn has_a_day(&self) -> bool {
        let first = self.0[DAY].numbers().next().unwrap_or(1);
        self.either_day()
            || (1..)
                .zip(MONTH_DAYS)
                .any(|(month, last)| self.0[MONTH].has(month) && first <= last)
    }

    /// Whether a day is one of the schedule.
    pub(super) fn day_fits(&self, day: Date) -> bool {
        let number = |number: i8| u32::try_from(number).unwrap_or(0);
        let of_month = self.0[DAY].has(number(day.day()));
        let of_week = self.0[WEEKDAY].has(number(day.weekday().to_sunday_zero_offset()));
        let fits = if self.either_day() {
            of_month || of_week
        } else {
            of_month && of_week
        };
        fits && self.0[MONTH].has(number(day.month()))
    }

    /// The times of a day, as hour and minute.
    pub(super) fn times(&self) -> impl Iterator<Item = (i8, i8)> {
        let small = |number: u32| i8::try_from(number).unwrap_or(0);
        let minutes = move || self.0[MINUTE].numbers().map(small);
        self.0[HOUR]
            .numbers()
            .map(small)
            .flat_map(move |hour| minutes().map(move |minute| (hour, minute)))
    }

    /// Whether it comes in every hour, so that one that clocks leave out is no loss.
    pub(super) fn comes_every_hour(&self) -> bool {
        self.0[HOUR].any
    }

    /// Whether an hour that clocks show twice counts twice: where minute or hour begins with `*`, as in cron.
    pub(super) fn goes_on_by_the_clock(&self) -> bool {
        self.0[MINUTE].starred || self.0[HOUR].starred
    }
}

/// The fields that a word such as `@daily` stands for.
fn named(text: &str, word: &str) -> Result<[&'static str; 5], Fault> {
    if let Some((_, fields)) = NAMES.iter().find(|(name, _)| *name == word) {
        return Ok(*fields);
    }
    let known = NAMES.map(|(name, _)| name).join(", ");
    let what = if word == "@reboot" {
        format!("has no @reboot: a tree has no start that all its machines share; there are {known}")
    } else {
        format!("has no {word}; there are {known}")
    };
    Err(Fault::new(text, word, what))
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
        let first = self.value(low)?;
        // Sunday at the end of a range is 7, so that `sat-sun` goes forward; `sun-sun` is Sunday alone.
        let last = match self.value(high)? {
            0 if self.max == 7 && first > 0 => 7,
            last => last,
        };
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
