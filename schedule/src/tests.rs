//! What schedules may be, and when they come, across changes of the clock.

use super::*;

fn second(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_second()
}

/// The times of a schedule after a moment, in its zone, as `day hour:minute offset`.
fn times(schedule: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = Schedule::parse(schedule, "job").unwrap();
    let mut at = second(after);
    let mut found = Vec::new();
    for _ in 0..count {
        at = schedule.next(at).unwrap();
        let moment = Timestamp::from_second(at).unwrap().to_zoned(schedule.zone.clone());
        found.push(moment.strftime("%d %H:%M %:z").to_string());
    }
    found
}

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
        "0 0 29 2 *",
        "0 0 30,31 2 mon",
        "TZ=america/new_york 0 0 * * *",
        "H H H H H",
        "H/30 H/23 H/31 H/12 H/7",
    ] {
        let schedule = Schedule::parse(text, "job").unwrap_or_else(|fault| panic!("{text}: {fault}"));
        assert!(schedule.next(second("2026-01-01T00:00:00Z")).is_some(), "{text}");
    }
}

#[test]
fn schedules_that_go_by_the_name_are_known() {
    for (text, spread) in [
        ("H 3 * * *", true),
        ("0 1,H(3-5) * * *", true),
        ("TZ=UTC 0 H/6 * * *", true),
        ("0 3 * MAR THU", false),
        ("@daily", false),
    ] {
        assert_eq!(Schedule::parse(text, "a").unwrap().is_spread(), spread, "{text}");
    }
}

#[test]
fn bad_schedules_and_where() {
    for (text, at, words) in [
        ("", 0, "must have five fields"),
        ("* * * *", 7, "five fields"),
        ("* * * * * *", 10, "five fields"),
        ("60 * * * *", 0, "minute"),
        ("* 24 * * *", 2, "hour"),
        ("* * 0 * *", 4, "day of the month"),
        ("* * * 13 *", 6, "month"),
        ("* * * * 8", 8, "day of the week"),
        ("5-1 * * * *", 0, "backwards"),
        ("*/0 * * * *", 0, "a step is from 1 to 59"),
        ("*/99 * * * *", 0, "a step"),
        ("5/2 * * * *", 0, "stands after"),
        ("H( * * * *", 0, "numbers go"),
        ("H(1) * * * *", 0, "H takes a range"),
        ("H(5-1) * * * *", 0, "backwards"),
        (", * * * *", 0, "numbers go"),
        ("1,2,x * * * *", 4, "numbers go from 0 to 59"),
        ("* * * foo *", 6, "numbers go"),
        ("@reboot", 0, "has no @reboot: a tree has no start"),
        ("TZ=UTC @often", 7, "there are @yearly, @annually, @monthly"),
        ("@daily *", 8, "five fields"),
        ("0 9 * * *\n0 17 * * 5", 10, "a job has one schedule"),
        ("CRON_TZ=Europe/Berlin 0 9 * * *", 0, "write TZ=Europe/Berlin"),
        ("* * * * @daily", 8, "numbers go"),
        ("TZ= * * * * *", 0, "names no time zone"),
        ("TZ=../x * * * * *", 0, "names no time zone"),
        ("TZ=Europe/Nowhere * * * * *", 0, "\"Europe/Nowhere\""),
        ("+1 * * * *", 0, "numbers go"),
        ("001 * * * *", 0, "numbers go"),
        ("0 0 30 2 *", 4, "never comes"),
        ("0 0 31 4,6,9,11 *", 4, "never comes"),
    ] {
        let fault = Schedule::parse(text, "job").expect_err(text);
        assert!(fault.at == at && fault.what.contains(words), "{text}: {fault:?}");
    }
    let long = format!("{} * * * *", "1,".repeat(200));
    assert!(Schedule::parse(&long, "job").unwrap_err().what.contains("at most 256"));
}

/// "`next` shows it in UTC, and a second line the same time by the clock of the zone."
#[test]
fn a_time_is_shown_by_the_clock_of_its_zone() {
    let schedule = |text: &str| Schedule::parse(text, "job").unwrap();
    let berlin = schedule("TZ=europe/berlin 30 2 * * *");
    for (after, shown) in [
        ("2026-10-24T10:00:00Z", "2026-10-25T02:30:00+02:00 Europe/Berlin"),
        ("2026-10-25T10:00:00Z", "2026-10-26T02:30:00+01:00 Europe/Berlin"),
        // 2:30 is left out that day.
        ("2026-03-28T10:00:00Z", "2026-03-29T03:00:00+02:00 Europe/Berlin"),
    ] {
        let next = berlin.next(second(after)).unwrap();
        assert_eq!(berlin.local(next).unwrap(), shown);
    }
    for text in ["@daily", "TZ=UTC @daily"] {
        assert_eq!(schedule(text).local(0), None, "{text}");
    }
    assert_eq!(berlin.local(i64::MAX), None);
}

/// `H` never moves: whoever planned around it would be surprised.
#[test]
fn h_is_spread_by_the_name_and_stays() {
    let first = |text: &str, job: &str| {
        let schedule = Schedule::parse(text, job).unwrap();
        readable(schedule.next(second("2026-01-01T00:00:00Z")).unwrap())
    };
    assert_eq!(first("H H * * *", "nightly"), "2026-01-01T02:53:00Z");
    assert_eq!(first("H H H * *", "weekly"), "2026-01-15T23:04:00Z");
    assert_eq!(first("H/15 * * * *", "often"), "2026-01-01T00:02:00Z");
    let minutes: std::collections::BTreeSet<String> =
        (0..600).map(|n| first("H 0 * * *", &format!("job-{n}"))).collect();
    assert_eq!(minutes.len(), 60, "every minute is somebody's");
    for n in 0..200 {
        let time = first("H(10-12) H(3-4) * * *", &format!("job-{n}"));
        assert!(
            time >= "2026-01-01T03:10".into() && time < "2026-01-01T04:13".into(),
            "{time}"
        );
    }
}

#[test]
fn steps_ranges_and_weekdays() {
    assert_eq!(
        times("*/20 5 * * *", "2026-01-01T05:05:00Z", 3),
        ["01 05:20 +00:00", "01 05:40 +00:00", "02 05:00 +00:00"]
    );
    // 2 and 3 January 2027 are a weekend.
    for weekend in ["sat-sun", "6-7", "6,0", "0,6"] {
        assert_eq!(
            times(&format!("0 0 * * {weekend}"), "2027-01-01T00:00:00Z", 3),
            ["02 00:00 +00:00", "03 00:00 +00:00", "09 00:00 +00:00"],
            "{weekend}"
        );
    }
    // "A range from a day to itself is that day": one that is made of two parameters may be.
    for sunday in [
        "0-0",
        "sun-sun",
        "Sun-0",
        "7-7",
        "7-sun",
        "0",
        "0-0/2",
        "H(0-0)",
        "H(sun-sun)",
    ] {
        assert_eq!(
            times(&format!("0 0 * * {sunday}"), "2027-01-01T00:00:00Z", 3),
            ["03 00:00 +00:00", "10 00:00 +00:00", "17 00:00 +00:00"],
            "{sunday}"
        );
    }
    for whole in ["0-7", "sun-sat", "mon-sun", "0-6"] {
        assert_eq!(
            times(&format!("0 0 * * {whole}"), "2027-01-01T00:00:00Z", 2),
            ["02 00:00 +00:00", "03 00:00 +00:00"],
            "{whole}"
        );
    }
    // Both given: a day that fits either.
    assert_eq!(
        times("0 0 13 * fri", "2026-11-01T00:00:00Z", 3),
        ["06 00:00 +00:00", "13 00:00 +00:00", "20 00:00 +00:00"]
    );
    assert_eq!(times("0 0 29 2 *", "2097-01-01T00:00:00Z", 1), ["29 00:00 +00:00"]);
}

/// On 29 March 2026 the clocks of Berlin went from 2:00 to 3:00, on 25 October from 3:00 to 2:00.
fn berlin(fields: &str, after: &str, count: usize) -> Vec<String> {
    times(&format!("TZ=Europe/Berlin {fields}"), after, count)
}

#[test]
fn when_the_clocks_change() {
    assert_eq!(
        berlin("30 2 * * *", "2026-03-28T10:00:00Z", 2),
        ["29 03:00 +02:00", "30 02:30 +02:00"],
        "what is left out comes at the first moment after, once"
    );
    assert_eq!(
        berlin("30 2 * * *", "2026-10-24T10:00:00Z", 2),
        ["25 02:30 +02:00", "26 02:30 +01:00"],
        "a given time comes once"
    );
    assert_eq!(
        berlin("30 * * * *", "2026-10-24T23:40:00Z", 3),
        ["25 02:30 +02:00", "25 02:30 +01:00", "25 03:30 +01:00"],
        "every hour is every hour"
    );
    // A given time, and each of several: by its clock, once.
    assert_eq!(
        berlin("30 1,2,3 * * *", "2026-10-24T22:00:00Z", 4),
        [
            "25 01:30 +02:00",
            "25 02:30 +02:00",
            "25 03:30 +01:00",
            "26 01:30 +01:00"
        ]
    );
    assert_eq!(
        berlin("20,40 1,2,3 * * *", "2026-03-29T00:30:00Z", 4),
        [
            "29 01:40 +01:00",
            "29 03:00 +02:00",
            "29 03:20 +02:00",
            "29 03:40 +02:00"
        ],
        "all that is left out comes at one moment"
    );
    assert_eq!(
        berlin("30 * * * *", "2026-03-28T23:00:00Z", 3),
        ["29 00:30 +01:00", "29 01:30 +01:00", "29 03:30 +02:00"],
        "what comes each hour does so"
    );
    // A whole day is left out: 30 December 2011 in Samoa.
    assert_eq!(
        times("TZ=Pacific/Apia 0 12 * * *", "2011-12-29T00:00:00Z", 3),
        ["29 12:00 -10:00", "31 00:00 +14:00", "31 12:00 +14:00"]
    );
}

/// "Where minute or hour begins with `*`, the hour that comes twice counts twice": with a step, too. "What falls into
/// the gap starts right after it; a schedule of every hour goes on every hour".
#[test]
fn stars_go_by_the_clock_when_it_changes() {
    for fields in ["*/15 0-23 * * *", "*/15 */1 * * *", "*/15 * * * *", "*/15 2,3 * * *"] {
        assert_eq!(
            berlin(fields, "2026-10-25T00:40:00Z", 3),
            ["25 02:45 +02:00", "25 02:00 +01:00", "25 02:15 +01:00"],
            "{fields}"
        );
    }
    assert_eq!(
        berlin("30 */2 * * *", "2026-10-24T22:00:00Z", 3),
        ["25 00:30 +02:00", "25 02:30 +02:00", "25 02:30 +01:00"]
    );
    assert_eq!(
        berlin("30 0-23 * * *", "2026-10-24T23:40:00Z", 2),
        ["25 02:30 +02:00", "25 03:30 +01:00"],
        "hours that are given come once"
    );
    for (fields, first) in [
        ("30 * * * *", "29 03:30 +02:00"),
        ("30 */1 * * *", "29 03:30 +02:00"),
        ("30 */2 * * *", "29 03:00 +02:00"),
        ("*/30 2 * * *", "29 03:00 +02:00"),
    ] {
        assert_eq!(berlin(fields, "2026-03-29T00:45:00Z", 1), [first], "{fields}");
    }
}

/// "A field that begins with `*` says nothing for the rule of days, whatever its step": with one of
/// them, a day fits both fields.
#[test]
fn a_field_that_begins_with_a_star_is_unrestricted() {
    for (schedule, days) in [
        // The odd days of November 2026 that are Mondays; the 9th and the 23rd.
        ("0 0 */2 * mon", ["09", "23"]),
        ("0 0 1-31/2 * mon", ["01", "02"]),
        // Sundays, Tuesdays, Thursdays and Saturdays in the first week.
        ("0 0 1-7 * */2", ["01", "03"]),
        ("0 0 2,4,7 * */2", ["07", "02"]),
        ("0 0 13 * fri", ["06", "13"]),
        ("0 0 * * fri", ["06", "13"]),
        ("0 0 13 * *", ["13", "13"]),
        ("0 0 */31,5 * mon", ["01", "01"]),
    ] {
        let found = times(schedule, "2026-10-31T12:00:00Z", 40);
        let found: Vec<&str> = found.iter().map(|time| &time[..2]).take(2).collect();
        assert_eq!(found, days, "{schedule}");
    }
    // The next 29 February that is a Sunday is that of 2032.
    let leap = Schedule::parse("0 0 29 2 */7", "job").unwrap();
    let next = leap.next(second("2026-01-01T00:00:00Z")).unwrap();
    assert_eq!(readable(next), "2032-02-29T00:00:00Z");
    let next = leap.next(second("2088-03-01T00:00:00Z")).unwrap();
    assert_eq!(readable(next), "2128-02-29T00:00:00Z", "forty years later");
    let never = Schedule::parse("0 0 30 2 */2", "job").unwrap_err();
    assert!(never.at == 4 && never.what.contains("never comes"), "{never:?}");
}

/// "`@daily` and its like": the moments of cron's own manual page.
#[test]
fn words_stand_for_fields() {
    for (word, fields) in [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("TZ=Asia/Kathmandu  @daily ", "TZ=Asia/Kathmandu 0 0 * * *"),
    ] {
        let after = "2026-06-30T05:00:00Z";
        assert_eq!(times(word, after, 3), times(fields, after, 3), "{word}");
    }
    assert_eq!(times("@weekly", "2026-11-24T00:00:00Z", 1), ["29 00:00 +00:00"]);
}

/// Asked at any moment, the last time is the same one that asking forward gives: it is the key
/// by which many workers make one build.
#[test]
fn last_agrees_with_next_at_every_minute() {
    for fields in [
        "30 2 * * *",
        "*/30 * * * *",
        "15 2,3 * * *",
        "0 3 * * *",
        "*/20 2 * * *",
        "59 1 * * *",
        "*/15 */2 * * *",
        "7 */3 * * *",
    ] {
        for (zone, from) in [
            ("Europe/Berlin", "2026-03-28T20:00:00Z"),
            ("Europe/Berlin", "2026-10-24T20:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T10:00:00Z"),
            ("Australia/Lord_Howe", "2026-10-03T10:00:00Z"),
            ("America/Sao_Paulo", "2018-11-03T20:00:00Z"),
            ("Asia/Kathmandu", "2026-10-03T10:00:00Z"),
        ] {
            let schedule = Schedule::parse(&format!("TZ={zone} {fields}"), "job").unwrap();
            let from = second(from);
            let forward: Vec<i64> = std::iter::successors(schedule.next(from), |at| schedule.next(*at))
                .take_while(|at| *at <= from + 2 * 86_400)
                .collect();
            // On each full minute or half a minute after it, by turns.
            for until in (from..from + 2 * 86_400).step_by(90) {
                let wanted = forward.iter().rev().find(|at| **at <= until).copied();
                let found = schedule.last(from, until);
                assert_eq!(found, wanted, "{zone} {fields} at {}", readable(until));
            }
        }
    }
}

#[test]
fn last_is_within_its_bounds() {
    let schedule = Schedule::parse("0 12 * * *", "job").unwrap();
    let noon = second("2026-05-05T12:00:00Z");
    assert_eq!(schedule.last(noon - 1, noon), Some(noon));
    assert_eq!(schedule.last(noon, noon + 3600), None);
    assert_eq!(schedule.last(noon - 86_400, noon - 1), None);
    assert_eq!(schedule.last(i64::MIN, i64::MAX), None, "no such moment");
    assert_eq!(schedule.next(i64::MAX), None);
}
