//! The reader beside serde_json, and what it refuses beyond that.

use proptest::prelude::*;

use super::*;

/// The words of the fault that a text has.
fn fault(text: impl AsRef<[u8]>) -> String {
    parse(text.as_ref()).expect_err("a fault").to_string()
}

fn read(text: &str) -> serde_json::Value {
    parse(text.as_bytes()).expect(text).to_json()
}

#[test]
fn places_are_those_of_the_text() {
    let value = parse("{\n  \"ä\": [1,\t\"ö\", 2],\r\n \"b\": {}}".as_bytes()).unwrap();
    let Kind::Object(members) = &value.kind else {
        panic!("an object")
    };
    let place = |line, column| Place { line, column };
    assert_eq!(value.at, place(1, 1));
    assert_eq!((members[0].at, members[0].value.at), (place(2, 3), place(2, 8)));
    let Kind::List(items) = &members[0].value.kind else {
        panic!("a list")
    };
    assert_eq!(
        items.iter().map(|item| item.at).collect::<Vec<_>>(),
        [place(2, 9), place(2, 12), place(2, 17)]
    );
    assert_eq!((members[1].at, members[1].value.at), (place(3, 2), place(3, 7)));
}

#[test]
fn faults_have_places_and_words() {
    assert_eq!(fault("{\"a\": 1,\n \"a\": 2}"), "2:2: the key \"a\" stands here twice");
    assert_eq!(fault("[1, 2,]"), "1:7: found `]` where a value should be");
    assert_eq!(fault("[1 2]"), "1:4: found `2` where a comma or ] should be");
    assert_eq!(fault("{a: 1}"), "1:2: found `a` where a key in double quotes should be");
    assert_eq!(fault("{} x"), "1:4: something follows after the end of the value");
    assert_eq!(fault(" \n"), "2:1: the text is empty; a JSON value is needed");
    assert_eq!(
        fault("[\"a\nb\"]"),
        "1:4: the line ends within a string; a new line is written \\n"
    );
    assert_eq!(fault("[\"a\0\"]"), "1:4: the text contains a NUL");
    assert_eq!(fault("[\"a\\u0000\"]"), "1:4: a string can't contain NUL");
    assert_eq!(
        fault("[\u{1}]"),
        "1:2: found the control character U+0001 where a value should be"
    );
    assert_eq!(
        fault("\u{feff}{}"),
        "1:1: the text begins with a byte order mark; save it as UTF-8 without BOM"
    );
    assert_eq!(fault(b"[\"\xc3\xa4\xff\"]"), "1:4: the text is not valid UTF-8 here");
    assert_eq!(
        fault("[\"\\ud800x\"]"),
        "1:3: half a surrogate pair: \\uD8xx needs \\uDCxx after it"
    );
    assert_eq!(
        fault("[\"\\udc00\"]"),
        "1:3: half a surrogate pair: \\uDCxx without \\uD8xx before it"
    );
    assert_eq!(fault("[01]"), "1:2: \"01\" is no JSON number, or too large a one");
    assert_eq!(fault("[1e999]"), "1:2: \"1e999\" is no JSON number, or too large a one");
    assert_eq!(fault("{\"a\""), "1:5: the text ends where a colon should be");
}

#[test]
fn escapes_become_what_they_stand_for() {
    let text = r#"["\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00\uFFFF"]"#;
    assert_eq!(read(text), serde_json::from_str::<serde_json::Value>(text).unwrap());
}

#[test]
fn nesting_is_bounded_and_never_overflows_the_stack() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(parse(nested(NESTING_MAX).as_bytes()).is_ok());
    assert_eq!(
        fault(nested(NESTING_MAX + 1)),
        "1:65: lists and objects are nested deeper than 64"
    );
    assert_eq!(
        fault("[".repeat(100_000)),
        "1:65: lists and objects are nested deeper than 64"
    );
    assert!(fault("{\"a\":".repeat(100_000)).ends_with("nested deeper than 64"));
}

#[test]
fn a_text_has_a_mebibyte_at_most() {
    let text = |n: usize| format!("\"{}\"", "x".repeat(n - 2));
    assert!(parse(text(TEXT_BYTES_MAX).as_bytes()).is_ok());
    assert_eq!(
        fault(text(TEXT_BYTES_MAX + 1)),
        "1:1: the text is longer than 1048576 bytes"
    );
}

#[test]
fn a_long_line_of_many_values_takes_no_quadratic_time() {
    let text = format!("[{}1]", "1,".repeat(500_000));
    let start = std::time::Instant::now();
    let Kind::List(items) = parse(text.as_bytes()).unwrap().kind else {
        panic!("a list")
    };
    assert_eq!(
        items.last().unwrap().at,
        Place {
            line: 1,
            column: 1_000_002
        }
    );
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// Whether the value holds what only serde_json takes.
fn has_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(items) => items.iter().any(has_nul),
        serde_json::Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// A value whose numbers are what serde_json makes of them, also those that keep their text as strings.
fn with_numbers(value: &Value) -> serde_json::Value {
    match &value.kind {
        Kind::Number(number) => serde_json::from_str(number.text()).expect("a number"),
        Kind::List(items) => items.iter().map(with_numbers).collect(),
        Kind::Object(members) => {
            let members = members
                .iter()
                .map(|member| (member.key.clone(), with_numbers(&member.value)));
            serde_json::Value::Object(members.collect())
        }
        _ => value.to_json(),
    }
}

/// Both readers must agree, but for what ours refuses on purpose.
fn compare(text: &str) -> Result<(), TestCaseError> {
    let theirs = serde_json::from_str::<serde_json::Value>(text);
    match (parse(text.as_bytes()), theirs) {
        (Ok(ours), Ok(theirs)) => prop_assert_eq!(with_numbers(&ours), theirs),
        (Ok(_), Err(error)) => prop_assert!(false, "only ours takes {:?}: {}", text, error),
        (Err(fault), Ok(theirs)) => {
            let ours = fault.what.contains("twice") || fault.what.contains("NUL") && has_nul(&theirs);
            prop_assert!(ours, "only serde_json takes {:?}: {}", text, fault);
        }
        (Err(_), Err(_)) => (),
    }
    Ok(())
}

proptest! {
    #[test]
    fn it_takes_what_serde_json_takes(text in r#"[\[\]{},:"\\ \nabtrufalsn0-9eE.+\-äd]{0,24}"#) {
        compare(&text)?;
    }

    #[test]
    fn numbers_are_those_of_serde_json(text in r"-?[0-9]{0,25}(\.[0-9]{0,20})?([eE][+-]?[0-9]{0,3})?") {
        compare(&text)?;
    }

    #[test]
    fn strings_are_those_of_serde_json(text in r#"(\\u[dD][89abAB][0-9]{2}|\\u[dD][cdefCDEF][0-9]{2}|\\u00[0-9a-f]{2}|\\["\\/bfnrtx]|.){0,8}"#) {
        compare(&format!("[\"{text}\"]"))?;
    }

    #[test]
    fn what_serde_json_writes_is_read_back(value in tree()) {
        prop_assert_eq!(read(&value.to_string()), value.clone());
        prop_assert_eq!(read(&serde_json::to_string_pretty(&value).unwrap()), value);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let ours = parse(&bytes).is_ok();
        prop_assert!(!ours || serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
    }
}

/// Any JSON value without NUL.
fn tree() -> impl Strategy<Value = serde_json::Value> {
    let text = "[^\0]{0,8}";
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        // Quarters: serde_json itself doesn't read every float back to the last bit.
        any::<i32>().prop_map(|n| (f64::from(n) / 4.0).into()),
        text.prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::vec((text, inner), 0..5)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}
