//! From fields to moments: the days that fit, and the times of a day in its zone.

use std::cmp::Ordering;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

use super::fields::Fields;

/// Days that are looked through: a 29 February that has to be a certain weekday may be 40 years off.
const DAYS_MAX: usize = 41 * 366;

impl Fields {
    /// The first moment that is later than `after`; seconds since 1970.
    pub(super) fn next(&self, zone: &TimeZone, after: Timestamp) -> Option<i64> {
        let later = |second: &i64| *second > after.as_second();
        // Where clocks are put back over midnight, two days share an hour.
        let first = zone.to_datetime(after).date().yesterday().unwrap_or(Date::MIN);
        let days = first.series(1.day()).take(DAYS_MAX).map(|day| self.moments(zone, day));
        nearest(days, |moments| moments.filter(later).min(), Ordering::Less)
    }

    /// The last moment that is later than `after` and not later than `until`.
    pub(super) fn last(&self, zone: &TimeZone, after: i64, until: Timestamp) -> Option<i64> {
        let within = |second: &i64| *second > after && *second <= until.as_second();
        let last = zone.to_datetime(until).date().tomorrow().unwrap_or(Date::MAX);
        let oldest = Timestamp::from_second(after).map_or(Date::MIN, |after| zone.to_datetime(after).date());
        let oldest = oldest.yesterday().unwrap_or(Date::MIN);
        let days = last.series(-1.day()).take(DAYS_MAX).take_while(|day| *day >= oldest);
        let days = days.map(|day| self.moments(zone, day));
        nearest(days, |moments| moments.filter(within).max(), Ordering::Greater)
    }

    /// The moments of a day, in no order.
    fn moments(&self, zone: &TimeZone, day: Date) -> impl Iterator<Item = i64> {
        // Most days of most schedules do not fit, and a rare one is looked for through many years.
        let fits = self.day_fits(day);
        let times = fits.then(|| self.times()).into_iter().flatten();
        let even = fits.then(|| even_offset(zone, day)).flatten();
        times.flat_map(move |(hour, minute)| {
            let time = day.at(hour, minute, 0, 0);
            match even {
                Some(midnight) => [Some(midnight + i64::from(hour) * 3600 + i64::from(minute) * 60), None],
                None => self.at(zone, time),
            }
            .into_iter()
            .flatten()
        })
    }

    /// The moments at which the clock shows a time, or those that stand for it.
    fn at(&self, zone: &TimeZone, time: DateTime) -> [Option<i64>; 2] {
        let moment = |offset: jiff::tz::Offset| offset.to_timestamp(time).ok();
        let second = |moment: Option<Timestamp>| moment.map(Timestamp::as_second);
        match zone.to_ambiguous_timestamp(time).offset() {
            AmbiguousOffset::Unambiguous { offset } => [second(moment(offset)), None],
            AmbiguousOffset::Gap { .. } if self.comes_every_hour() => [None, None],
            AmbiguousOffset::Gap { after, .. } => {
                let change = moment(after).and_then(|before| zone.following(before).next());
                [second(change.map(|change| change.timestamp())), None]
            }
            AmbiguousOffset::Fold { before, after } => {
                let again = self.goes_on_by_the_clock().then(|| moment(after)).flatten();
                [second(moment(before)), second(again)]
            }
        }
    }
}

/// What is best in the first of some days that have a moment, and in the one after it.
fn nearest<M>(mut days: impl Iterator<Item = M>, best: impl Fn(M) -> Option<i64>, wanted: Ordering) -> Option<i64> {
    let found = days.by_ref().find_map(&best)?;
    let other = days.next().and_then(best);
    Some(other.filter(|other| other.cmp(&found) == wanted).unwrap_or(found))
}

/// The moment at which a day begins, if its clock is not changed from then to a day later.
fn even_offset(zone: &TimeZone, day: Date) -> Option<i64> {
    let AmbiguousOffset::Unambiguous { offset } = zone.to_ambiguous_timestamp(day.at(0, 0, 0, 0)).offset() else {
        return None;
    };
    let midnight = offset.to_timestamp(day.at(0, 0, 0, 0)).ok()?;
    let change = zone
        .following(midnight)
        .next()
        .map(|change| change.timestamp().as_second());
    let even = change.is_none_or(|change| change > midnight.as_second() + 86_400);
    even.then_some(midnight.as_second())
}
