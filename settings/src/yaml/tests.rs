//! What of YAML is taken, and where the rest is refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fault(text: impl AsRef<[u8]>) -> String {
    parse(text.as_ref()).expect_err("a fault").to_string()
}

fn read(text: &str) -> serde_json::Value {
    parse(text.as_bytes()).expect(text).to_json()
}

/// How many events are asked for, whatever comes of it.
fn steps(text: &str) -> usize {
    let mut loader = Loader::new(text);
    drop(loader.document());
    loader.steps
}

/// "Quotes no text of the file": what a text says does not come back in its fault.
#[test]
fn a_fault_quotes_nothing() {
    for text in [
        "hunter2",
        "a: hunter2\na: 1",
        "hunter2: 1\nhunter2: 2",
        "*hunter2",
        "&hunter2 [*hunter2]",
        "!hunter2 a",
        "%hunter2\n---\na: b",
        "'hunter2",
        "[hunter2",
        "a: @hunter2",
        "a: hunter2: b",
        "\"hunter2\\q\"",
        "<<: hunter2",
        "? [hunter2]\n: a",
        "hunter2\n---\nhunter2",
        "hunter2\0",
    ] {
        let told = parse(text.as_bytes()).map_or_else(|fault| fault.to_string(), |_| String::new());
        assert!(!told.contains("hunter2") && !told.contains('`'), "{text:?}: {told}");
    }
}

#[test]
fn places_are_those_of_the_text() {
    let value = parse("# ä\n\"ä\": [1, ö]\nb:\r\n- &x {c: 'd'}\n-\n  - *x\n".as_bytes()).unwrap();
    let mut found = Vec::new();
    walk(&value, &mut found);
    // The last four are an alias, and what it stands for at its own place.
    let expected: [&[(u32, u32)]; 5] = [
        &[(2, 1), (2, 1), (2, 6), (2, 7), (2, 10)],
        // A list that is not indented stands where its first item does.
        &[(3, 1), (4, 3)],
        &[(4, 3), (4, 7), (4, 10)],
        &[(6, 3)],
        &[(6, 5), (4, 7), (4, 10)],
    ];
    assert_eq!(found, expected.concat());
}

fn walk(value: &Value, found: &mut Vec<(u32, u32)>) {
    found.push((value.at.line, value.at.column));
    match &value.kind {
        Kind::List(items) => items.iter().for_each(|item| walk(item, found)),
        Kind::Object(members) => members.iter().for_each(|member| {
            found.push((member.at.line, member.at.column));
            walk(&member.value, found);
        }),
        _ => {}
    }
}

/// "Plain scalars `true`, `false`, `null`, `~`, nothing and what JSON writes as a number are these; all else is text."
#[test]
fn only_what_json_has_words_for_is_no_text() {
    for (text, expected) in [
        ("true", json!(true)),
        ("false", json!(false)),
        ("null", json!(null)),
        ("~", json!(null)),
        ("", json!(null)),
        ("12", json!(12)),
        ("-1.5e3", json!("-1.5e3")),
        ("3.10", json!("3.10")),
        ("1e5", json!("1e5")),
        ("010", json!("010")),
        ("+1", json!("+1")),
        (".5", json!(".5")),
        ("0x10", json!("0x10")),
        ("1_000", json!("1_000")),
        ("1e999", json!("1e999")),
        (".inf", json!(".inf")),
        ("yes", json!("yes")),
        ("True", json!("True")),
        ("NULL", json!("NULL")),
        ("2026-11-30", json!("2026-11-30")),
        ("12:30", json!("12:30")),
        ("'12'", json!("12")),
        ("\"true\"", json!("true")),
        ("''", json!("")),
        ("|\n  a\n  b\n", json!("a\nb\n")),
        (">-\n  a\n  b\n", json!("a b")),
        ("a b # c", json!("a b")),
        ("http://x/y#z", json!("http://x/y#z")),
    ] {
        assert_eq!(read(&format!("v: {text}")), json!({ "v": expected }), "{text}");
    }
    let Kind::Object(members) = parse(b"v: 3.10").unwrap().kind else {
        panic!("an object")
    };
    assert!(matches!(&members[0].value.kind, Kind::Number(number) if number.text() == "3.10"));
}

#[test]
fn it_is_one_document_with_perhaps_a_version() {
    for text in [
        "%YAML 1.2\n---\na: 1\n...\n",
        "# why\n---\na: 1",
        "a: 1\n...",
        "{\"a\": 1}",
    ] {
        assert_eq!(read(text), json!({ "a": 1 }), "{text:?}");
    }
    // A line that begins so within the document is text of it.
    assert_eq!(read("a: |\n  %x\n"), json!({ "a": "%x\n" }));
}

/// "Own keys win", and of several objects the first.
#[test]
fn aliases_and_merge_keys_are_what_they_stand_for() {
    let text =
        "x: &x { a: 1, b: 1 }\ny: &y { b: 2, c: 2 }\nz: { <<: [*x, *y], a: 3 }\nw: { a: 3, <<: *x }\nv: [*x, 1]\n";
    let value = read(text);
    assert_eq!(value["z"], json!({ "a": 3, "b": 1, "c": 2 }));
    assert_eq!(value["w"], json!({ "a": 3, "b": 1 }));
    assert_eq!(value["v"], json!([{ "a": 1, "b": 1 }, 1]));
    // Only without quotes; and an anchor may be set again.
    assert_eq!(read("'<<': 1"), json!({ "<<": 1 }));
    assert_eq!(read("[&a 1, *a, &a 2, *a]"), json!([1, 1, 2, 2]));
    assert_eq!(read("[&k a: 1, *k]"), json!([{ "a": 1 }, "a"]));
}

/// "Aliases and merge keys make at most 1,000 values": as many as that, and not one more.
#[test]
fn aliases_are_bounded_before_anything_is_copied() {
    let text = |aliases: usize| format!("x: &x [1, 2, 3, 4]\ny: [{}]\n", "*x,".repeat(aliases));
    assert_eq!(read(&text(200))["y"].as_array().unwrap().len(), 200);
    assert!(fault(text(201)).contains("more than 1000 values"));
    // A mebibyte of anchors in one another, each of which holds all the others.
    let nested = format!("{}x{}", "[&a ".repeat(60), "]".repeat(60));
    let many = format!("x:\n{}", format!("- {nested}\n").repeat(3_000));
    assert!(parse(many.as_bytes()).is_ok());
}

/// "Answered in time": each event is asked for once, and a text has no more of them than bytes.
#[test]
fn no_text_takes_more_steps_than_it_has_bytes() {
    let texts = [
        "- ".repeat(1 << 16),
        "[".repeat(1 << 17),
        format!("[{}]", "[],".repeat(30_000)),
        "- a\n".repeat(1 << 15),
        format!("{{{}}}", ",".repeat(1 << 17)),
        "? ".repeat(1 << 16),
        "a:\n".repeat(1 << 15),
        "&a ".repeat(1 << 15),
        "\n".repeat(1 << 17),
        format!("a: |\n{}", " x\n".repeat(30_000)),
        format!("a: \"{}\"", "\\n\n".repeat(30_000)),
        format!("a: {}", "b\n  ".repeat(20_000)),
        "#".repeat(1 << 17),
        "\t".repeat(1 << 17),
    ];
    for text in texts {
        let steps = steps(&text);
        assert!(steps <= text.len() + 8, "{steps} steps for {:.20}…", text);
        // A fault is told within the text, or in the line after it.
        if let Err(fault) = parse(text.as_bytes().get(..TEXT_BYTES_MAX).unwrap_or(text.as_bytes())) {
            assert!(usize::try_from(fault.line).unwrap() <= text.lines().count() + 1);
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in r#"[\[\]{},:"'&*!|>%?<~ab1 \-\n\t\r#\\]{0,40}"#) {
        drop(parse(text.as_bytes()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        drop(parse(&bytes));
    }

    /// YAML has JSON in it: what ours reads as JSON is the same as YAML, places too.
    #[test]
    fn json_is_yaml(text in r#"[\[\]{},:"a1 ]{0,24}"#) {
        if let Ok(value) = crate::json::parse(text.as_bytes()) {
            prop_assert_eq!(parse(text.as_bytes()).ok(), Some(value), "{:?}", text);
        }
    }
}
