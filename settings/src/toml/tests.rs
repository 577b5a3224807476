//! What of TOML is taken, and where the rest is refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fault(text: impl AsRef<[u8]>) -> String {
    parse(text.as_ref()).expect_err("a fault").to_string()
}

fn read(text: &str) -> serde_json::Value {
    parse(text.as_bytes()).expect(text).to_json()
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

#[test]
fn places_are_those_of_the_text() {
    let text = "# ä\n\"ä\" = [1, \"ö\", 2]\r\n[[tasks]]\nz.y = 1\na = { b = true }\n[[tasks]]\n";
    let value = parse(text.as_bytes()).unwrap();
    let mut found = Vec::new();
    walk(&value, &mut found);
    let expected: [&[(u32, u32)]; 5] = [
        &[(1, 1), (2, 1), (2, 7), (2, 8), (2, 11), (2, 16)],
        // The list of tables, and the first of them, its members in their order.
        &[(3, 3), (3, 1), (3, 1)],
        &[(4, 1), (4, 1), (4, 3), (4, 7)],
        &[(5, 1), (5, 5), (5, 7), (5, 11)],
        &[(6, 1)],
    ];
    assert_eq!(found, expected.concat());
}

/// "Dates are text; a number is as JSON has it."
#[test]
fn scalars_are_those_of_json() {
    for (text, expected) in [
        ("true", json!(true)),
        ("12", json!(12)),
        ("-1", json!(-1)),
        ("0.5", json!(0.5)),
        ("3.10", json!("3.10")),
        ("1e5", json!("1e5")),
        ("2026-11-30", json!("2026-11-30")),
        ("2026-11-30T08:00:00Z", json!("2026-11-30T08:00:00Z")),
        ("'a\\b'", json!("a\\b")),
        ("\"\"\"\na\n\"\"\"", json!("a\n")),
    ] {
        assert_eq!(read(&format!("v = {text}")), json!({ "v": expected }), "{text}");
    }
    for text in ["0x1F", "0b1", "0o7", "1_0", "+1", "inf", "-nan", "1_0.5"] {
        assert_eq!(
            fault(format!("a = 1\nv = {text}")),
            "2:5: a number is written as in JSON: 1000, -1, 0.5 or 1e3",
            "{text}"
        );
    }
    assert_eq!(read(""), json!({}));
}

/// "Nesting of 64": of keys with dots, headers and brackets together, and more than that is not even begun.
#[test]
fn depth_is_counted_before_anything_is_read() {
    let dots = |n: usize| vec!["a"; n].join(".");
    for (text, good) in [
        (format!("{} = 1", dots(63)), true),
        (format!("{} = 1", dots(65)), false),
        (format!("[{}]", dots(62)), true),
        (format!("[{}]\nb = 1\n{} = 1", dots(30), dots(30)), true),
        (format!("[{}]\n{} = 1", dots(30), dots(36)), false),
        (format!("{} = {{ {} = 1 }}", dots(30), dots(30)), true),
        (format!("{} = {{ b = 1, {} = 1 }}", dots(30), dots(36)), false),
        (format!("[[{}]]\na = 1\n[b]\n{} = 1", dots(40), dots(40)), true),
        // Dots of texts, numbers and dates lead nowhere.
        (
            format!("a = [\"{}\", '{}', 1.5] # {}", dots(99), dots(99), dots(99)),
            true,
        ),
        (
            format!("a = \"\"\"{}\"\"\"\"\nb = [{}]", dots(99), "1.5, ".repeat(99)),
            true,
        ),
        (format!("a = [ ]{}", "}".repeat(99)), false),
    ] {
        assert_eq!(parse(text.as_bytes()).is_ok(), good, "{text}");
    }
    let nested = format!("x = {}", format!("{{ {} = ", dots(79)).repeat(79));
    assert!(fault(nested).contains("nested deeper than 64"));
    assert!(fault(format!("x = {}", "[".repeat(1 << 19))).contains("nested deeper than 64"));
    assert!(fault(format!("[{}]", dots(1 << 18))).contains("nested deeper than 64"));
}

/// "Quotes nothing of the file."
#[test]
fn a_fault_quotes_nothing() {
    for text in [
        "hunter2",
        "a = hunter2",
        "hunter2 = 1\nhunter2 = 2",
        "hunter2 = 1\nhunter2.a = 2",
        "[hunter2]\n[hunter2]",
        "a = 'hunter2",
        "a = \"\\hunter2\"",
        "a = 1 hunter2",
        "[hunter2",
        "a = 12hunter2",
    ] {
        let told = fault(text);
        assert!(!told.contains("hunter2"), "{text:?}: {told}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in r#"[\[\]{}=.,"'#ab1\- \n\t\r\\]{0,40}"#) {
        drop(parse(text.as_bytes()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        drop(parse(&bytes));
    }
}
