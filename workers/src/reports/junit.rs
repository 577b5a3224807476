//! Reads reports of tests as JUnit writes them, and all that writes as JUnit does. Whoever wrote one may have wanted
//! harm: nothing is expanded, and all that is kept of it is bounded.

use distcifs_settings::fault::plain;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

/// Elements within elements: suites stand in suites, and nobody nests them deeper.
const DEPTH_MAX: usize = 64;

/// Attributes of an element that are looked at.
const ATTRIBUTES_MAX: usize = 64;

/// Characters of a name and of a message that are kept.
const NAME_CHARS_MAX: usize = 300;
const MESSAGE_CHARS_MAX: usize = 500;

/// Characters of the details of a failure that are kept.
const TEXT_CHARS_MAX: usize = 2000;

/// Characters of what is wrong with a report that are told.
const FAULT_CHARS_MAX: usize = 200;

/// Failures that are kept by name.
pub(super) const FAILED_MAX: usize = 200;

/// What did not go well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// Suite or class, and the test.
    pub name: String,
    /// `failure`, or `error` of a test that could not be carried out.
    pub kind: &'static str,
    /// The first line.
    pub message: String,
    /// What else was said, from its beginning.
    pub text: String,
}

/// What reports said, together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Tests.
    pub tests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that could not be carried out.
    pub errors: u64,
    /// Those that were left out.
    pub skipped: u64,
    /// Their time together.
    pub seconds: f64,
    /// The first that did not go well.
    pub failed: Vec<Failed>,
}

/// A test that is being read.
#[derive(Default)]
struct Case {
    name: String,
    seconds: f64,
    skipped: bool,
    failed: Option<Failed>,
}

/// Adds what a report says.
///
/// # Errors
/// What is wrong with it, and the byte; what stands before that counts.
pub(super) fn read(text: &str, counts: &mut Counts) -> Result<(), String> {
    let mut reader = Reader::from_str(text);
    let (mut depth, mut cases) = (0_usize, 0_u64);
    let mut suites: Vec<(usize, String)> = Vec::new();
    let mut case: Option<(usize, Case)> = None;
    // The depth of the element whose text is a failure's.
    let mut telling = None;
    loop {
        let at = reader.buffer_position();
        let event = reader.read_event().map_err(|error| wrong(at, &error))?;
        match event {
            Event::DocType(_) => return Err(format!("byte {at}: it has a DOCTYPE, which no report needs")),
            Event::Start(element) | Event::Empty(element) if depth > DEPTH_MAX => {
                let name = plain(element.name().0).chars().take(40).collect::<String>();
                return Err(format!("byte {at}: {name} is nested deeper than {DEPTH_MAX}"));
            }
            Event::Start(element) => {
                depth += 1;
                begin(&element, depth, &mut suites, &mut case, &mut telling);
            }
            Event::Empty(element) => {
                begin(&element, depth + 1, &mut suites, &mut case, &mut None);
                suites.retain(|(of, _)| *of <= depth);
                cases += u64::from(end(depth + 1, &mut case, counts));
            }
            Event::End(_) => {
                telling = telling.filter(|of| *of < depth);
                cases += u64::from(end(depth, &mut case, counts));
                suites.retain(|(of, _)| *of < depth);
                depth = depth.saturating_sub(1);
            }
            Event::Text(text) if telling.is_some() => say(&mut case, &text),
            Event::CData(text) if telling.is_some() => say(&mut case, &text),
            Event::GeneralRef(name) if telling.is_some() => say(&mut case, &meaning(&name)),
            Event::Eof => break,
            _ => {}
        }
    }
    if depth > 0 {
        return Err("it ends before its elements do".to_owned());
    }
    if cases == 0 && !text.contains("<testsuite") {
        return Err("it has no test, and is no report as JUnit writes them".to_owned());
    }
    Ok(())
}

/// What is wrong at a byte. The parser repeats names whole, and they may be as long as the report.
fn wrong(at: u64, error: &quick_xml::Error) -> String {
    let text: String = error.to_string().chars().take(FAULT_CHARS_MAX).collect();
    format!("byte {at}: {}", plain(&text))
}

/// An element begins.
fn begin(
    element: &BytesStart<'_>,
    depth: usize,
    suites: &mut Vec<(usize, String)>,
    case: &mut Option<(usize, Case)>,
    telling: &mut Option<usize>,
) {
    let name = element.local_name();
    match (name.as_ref(), case) {
        ("testsuite", None) => suites.push((depth, attribute(element, "name", NAME_CHARS_MAX))),
        ("testcase", case @ None) => {
            let own = attribute(element, "name", NAME_CHARS_MAX);
            let mut class = attribute(element, "classname", NAME_CHARS_MAX);
            if class.is_empty() {
                class = suites.last().map(|(_, name)| name.clone()).unwrap_or_default();
            }
            let name = if class.is_empty() {
                own
            } else {
                format!("{class}.{own}")
            };
            let seconds: f64 = attribute(element, "time", 40).replace(',', "").parse().unwrap_or(0.0);
            let seconds = if seconds.is_finite() {
                seconds.clamp(0.0, 1e9)
            } else {
                0.0
            };
            let new = Case {
                name,
                seconds,
                ..Case::default()
            };
            *case = Some((depth, new));
        }
        ("skipped", Some((_, case))) => case.skipped = true,
        (kind @ ("failure" | "error"), Some((_, case))) if case.failed.is_none() => {
            let kind = if kind == "failure" { "failure" } else { "error" };
            let mut message = attribute(element, "message", MESSAGE_CHARS_MAX);
            if message.is_empty() {
                message = attribute(element, "type", MESSAGE_CHARS_MAX);
            }
            case.failed = Some(Failed {
                name: case.name.clone(),
                kind,
                message,
                text: String::new(),
            });
            *telling = Some(depth);
        }
        _ => {}
    }
}

/// An element of this depth ends: a test is counted then. Whether it was one.
fn end(depth: usize, case: &mut Option<(usize, Case)>, counts: &mut Counts) -> bool {
    let Some((_, done)) = case.take_if(|(of, _)| *of == depth) else {
        return false;
    };
    counts.tests += 1;
    counts.seconds += done.seconds;
    match done.failed {
        Some(mut failed) => {
            if failed.kind == "failure" {
                counts.failures += 1;
            } else {
                counts.errors += 1;
            }
            failed.text = shown(&failed.text, TEXT_CHARS_MAX);
            if failed.message.is_empty() {
                failed.message = shown(failed.text.trim().lines().next().unwrap_or_default(), MESSAGE_CHARS_MAX);
            }
            if counts.failed.len() < FAILED_MAX {
                counts.failed.push(failed);
            }
        }
        None => counts.skipped += u64::from(done.skipped),
    }
    true
}

/// More is said of a failure.
fn say(case: &mut Option<(usize, Case)>, text: &str) {
    let Some(failed) = case.as_mut().and_then(|(_, case)| case.failed.as_mut()) else {
        return;
    };
    // A letter has at most four bytes.
    if failed.text.len() < TEXT_CHARS_MAX * 4 {
        failed.text.extend(text.chars().take(TEXT_CHARS_MAX));
    }
}

/// What a reference stands for: one of the five that XML has, or a letter by its number.
fn meaning(name: &quick_xml::events::BytesRef<'_>) -> String {
    if let Ok(Some(letter)) = name.resolve_char_ref() {
        return letter.to_string();
    }
    let known: &str = name;
    quick_xml::escape::resolve_predefined_entity(known)
        .unwrap_or("?")
        .to_owned()
}

/// The value of an attribute; empty if it has none.
fn attribute(element: &BytesStart<'_>, name: &str, chars: usize) -> String {
    // Without looking for those that stand twice: that takes the square of their number.
    let mut attributes = element.attributes();
    let found = attributes
        .with_checks(false)
        .take(ATTRIBUTES_MAX)
        .flatten()
        .find(|one| one.key.0 == name);
    let Some(found) = found else { return String::new() };
    let value = found.normalized_value(XmlVersion::Implicit1_0);
    // A reference to what only a DOCTYPE could say.
    value.map_or_else(
        |_| "?".to_owned(),
        |value| shown(value.lines().next().unwrap_or_default(), chars),
    )
}

/// A text for people, without what steers a terminal.
fn shown(text: &str, chars: usize) -> String {
    let text: String = text.chars().take(chars).collect();
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    use super::*;

    /// What this thread has computed so far, whatever else the machine does.
    fn computed() -> Duration {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
    }

    fn counts(text: &str) -> Counts {
        let mut counts = Counts::default();
        read(text, &mut counts).unwrap_or_else(|why| panic!("{why}: {text}"));
        counts
    }

    /// What is wrong is told in few words, whatever the names are.
    #[test]
    fn a_fault_is_as_short_as_others() {
        let text = format!("<testsuite><{}></b>", "\u{1b}a".repeat(1 << 20));
        let why = read(&text, &mut Counts::default()).unwrap_err();
        assert!(
            why.len() < 8 * FAULT_CHARS_MAX && !why.contains('\u{1b}'),
            "{} bytes",
            why.len()
        );
        assert!(why.starts_with("byte "), "{why}");
    }

    /// Of JUnit, pytest, Go and Rust: suites in suites, tests without a class, details in CDATA.
    #[test]
    fn reports_of_several_tools_are_read() {
        let found = counts(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites><testsuite name=\"outer\"><testsuite name=\"inner\">
               <properties><property name=\"a\" value=\"b\"/></properties>
               <testcase name=\"ok\" time=\"1,000.5\"/>
               <testcase name=\"bad\" time=\"0.5\"><failure message=\"1 &lt; 2 &#x41;\" type=\"T\"><![CDATA[at line 3\nand <4>]]></failure>
                 <system-out>failure <error/></system-out></testcase>
               <testcase classname=\"a.B\" name=\"worse\" time=\"x\"><error type=\"Boom\">no\u{1b}[31m &amp; &#66;</error><error/></testcase>
               <testcase name=\"later\"><skipped/></testcase>
             </testsuite></testsuite><testcase name=\"free\"><failure>first line\nsecond</failure></testcase></testsuites>",
        );
        assert_eq!((found.tests, found.failures, found.errors, found.skipped), (5, 2, 1, 1));
        assert!((found.seconds - 1001.0).abs() < 1e-9);
        let names: Vec<_> = found
            .failed
            .iter()
            .map(|one| (one.name.as_str(), one.kind, one.message.as_str()))
            .collect();
        let expected = [
            ("inner.bad", "failure", "1 < 2 A"),
            ("a.B.worse", "error", "Boom"),
            ("free", "failure", "first line"),
        ];
        assert_eq!(names, expected);
        assert_eq!(found.failed[0].text, "at line 3\nand <4>");
        assert_eq!(found.failed[1].text, "no\\u{1b}[31m & B");
        assert_eq!(counts("<testsuite tests=\"0\"/>"), Counts::default());
    }

    /// "XML bombs": entities that name entities, nothing but depth, attributes by the million, a name without an end. Each
    /// is refused or counted, at once.
    #[test]
    fn bombs_do_nothing() {
        let begun = computed();
        let laughs =
            "<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;\">]><testsuite><testcase name=\"&b;\"/></testsuite>";
        let deep = "<testsuite>".repeat(1_000_000);
        let many: String = (0..200_000).fold("<testsuite><testcase ".to_owned(), |mut text, n| {
            let _ = write!(text, "a{n}=\"\" ");
            text
        }) + "name=\"x\"/></testsuite>";
        let long = format!("<testsuite><testcase name=\"{}\"/></testsuite>", "n".repeat(8 << 20));
        let told = format!(
            "<testsuite><testcase name=\"x\"><failure>{}</failure></testcase></testsuite>",
            "&lt;".repeat(1 << 18)
        );
        for (text, words) in [
            (laughs, "DOCTYPE"),
            (&*deep, "nested deeper"),
            ("<a></b>", "byte"),
            ("<testsuite><testcase", ""),
            ("<html/>", "no report"),
            ("", "no report"),
            ("no XML", "no report"),
        ] {
            let why = read(text, &mut Counts::default()).expect_err(words);
            assert!(why.contains(words) && why.len() < 500, "{words}: {why}");
        }
        assert_eq!(counts(&many).tests, 1);
        assert_eq!(counts(&long).tests, 1);
        let found = counts(&told);
        assert!(found.failed[0].text.chars().count() <= TEXT_CHARS_MAX);
        assert_eq!(
            counts("<testsuite><testcase name=\"&b;\"><failure message=\"&b;\">&b;</failure></testcase></testsuite>")
                .failed[0]
                .text,
            "?"
        );
        assert!(computed() - begun < Duration::from_secs(20), "{:?}", computed() - begun);
    }

    /// "100,000 cases within 2 s": here of a build that is not optimised, on a machine that does other things.
    #[test]
    fn a_hundred_thousand_cases_are_read_in_time() {
        let mut text = String::from("<testsuites><testsuite name=\"s\">");
        for n in 0..100_000 {
            let _ = write!(
                text,
                "<testcase classname=\"com.example.Class{n}\" name=\"does what it should {n}\" time=\"0.001\">"
            );
            if n % 10 == 0 {
                text += "<failure message=\"expected 1, got 2\">at Class.java:7\nat Main.java:9</failure>";
            }
            text += "</testcase>";
        }
        text += "</testsuite></testsuites>";
        let begun = computed();
        let found = counts(&text);
        let took = computed() - begun;
        assert_eq!(
            (found.tests, found.failures, found.failed.len()),
            (100_000, 10_000, FAILED_MAX)
        );
        eprintln!("100,000 cases, {} bytes: {took:?}", text.len());
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}
