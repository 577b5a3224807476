//! config.json: what is valid, when it is in force, what a reader sees (doc/tree.md, doc/job.md).

use super::driver::Fs;
use super::verbs::{HELLO, errno};

on_both! {
    what_is_not_valid_is_refused_and_said_why,
    a_refusal_is_seen_by_rename_and_fsync,
    a_reader_keeps_its_version,
    over_a_mebibyte_is_too_big,
    the_format_of_2013_is_valid,
    hostile_texts_are_refused,
}

/// A second configuration, told from HELLO by its script.
const OTHER: &str = r#"{"tasks":[{"type":"execute-shell","params":{"script":"echo other\n"}}]}"#;

/// "If it is not valid the close (or rename) fails with EINVAL, the old configuration stays, and
/// config.error holds the reason with line and column until the next good write."
fn what_is_not_valid_is_refused_and_said_why(fs: Fs) {
    fs.job("a", HELLO);
    let bad = "{\n  \"tasks\": [\n    { \"type\": \"publish-artifacts\", \"params\": { \"artifacts\": 7 } }\n  ]\n}\n";
    assert_eq!(errno(fs.write("jobs/a/config.json", bad)), libc::EINVAL);
    let why = fs.read("jobs/a/config.error");
    assert!(
        why.contains("config.json:3:") && why.contains("tasks[0].params.artifacts"),
        "{why}"
    );
    assert_eq!(fs.read("jobs/a/config.json"), HELLO);
    for (text, word) in [
        ("{", "config.json:1:"),
        ("[]", "config.json:1:"),
        ("{\"tasks\":[],\"nonsense\":1}", "nonsense"),
        ("\u{fffd}", ":1:"),
    ] {
        assert_eq!(errno(fs.write("jobs/a/config.json", text)), libc::EINVAL, "{text}");
        let why = fs.read("jobs/a/config.error");
        assert!(why.contains(word), "{text}: {why}");
    }
    fs.configure("a", OTHER);
    assert!(!fs.has("jobs/a/config.error"));
}

/// The same by rename, and by fsync: "fsync checks too".
fn a_refusal_is_seen_by_rename_and_fsync(fs: Fs) {
    fs.job("a", HELLO);
    fs.write("jobs/a/new", "{").unwrap();
    assert_eq!(errno(fs.rename("jobs/a/new", "jobs/a/config.json")), libc::EINVAL);
    let mut file = fs.open("jobs/a/config.json", libc::O_WRONLY | libc::O_TRUNC).unwrap();
    file.write(b"{").unwrap();
    assert_eq!(errno(file.fsync()), libc::EINVAL);
    assert_eq!(errno(file.close()), libc::EINVAL, "emacs asks the close alone");
    assert_eq!(fs.read("jobs/a/config.json"), HELLO);
}

/// "Readers see the old content until the commit; then every open sees the new one. A reader who
/// has it open keeps the version that it opened."
fn a_reader_keeps_its_version(fs: Fs) {
    fs.job("a", HELLO);
    let mut reader = fs.open("jobs/a/config.json", libc::O_RDONLY).unwrap();
    let mut writer = fs.open("jobs/a/config.json", libc::O_WRONLY | libc::O_TRUNC).unwrap();
    writer.write(OTHER.as_bytes()).unwrap();
    assert_eq!(fs.read("jobs/a/config.json"), HELLO, "before the commit");
    drop(writer);
    assert!(fs.read("jobs/a/config.json").contains("echo other"), "after the commit");
    let text = reader.read().unwrap();
    assert_eq!(String::from_utf8_lossy(&text).trim_end(), HELLO);
}

/// "EFBIG: config.json over 1 MiB".
fn over_a_mebibyte_is_too_big(fs: Fs) {
    fs.job("a", HELLO);
    let big = format!("{{\"description\":\"{}\",\"tasks\":[]}}", "x".repeat(1 << 20));
    assert_eq!(errno(fs.write("jobs/a/config.json", big)), libc::EFBIG);
    assert_eq!(fs.read("jobs/a/config.json"), HELLO);
}

/// DistCI's format of 2013 stays valid, word for word.
fn the_format_of_2013_is_valid(fs: Fs) {
    let text = r#"{"configuration-version": "2013-02-26", "job_id": "old", "tasks": [
        {"type": "git-checkout", "params": {"repository": "https://example.org/a.git", "ref": "refs/heads/master", "checkout-dir": "src"}},
        {"type": "execute-shell", "params": {"working_directory": "src", "script": "make ${TARGET}\n", "nodelabels": ["linux"]}},
        {"type": "publish-artifacts", "params": {"artifacts": ["src/build.log"]}}]}"#;
    fs.job("old", text);
    fs.mkdir("jobs/new").unwrap();
    let others = fs.write("jobs/new/config.json", text);
    assert_eq!(errno(others), libc::EINVAL, "job_id is another's");
}

/// Whatever bytes are written, the answer is EINVAL and the tree goes on.
fn hostile_texts_are_refused(fs: Fs) {
    fs.job("a", HELLO);
    let deep = "[".repeat(200_000);
    let texts: [&[u8]; 6] = [
        b"\0",
        b"\xff\xfe\xfd",
        deep.as_bytes(),
        b"{\"tasks\":1e999}",
        b"{\"tasks\":[{}]}",
        b"\"\\ud800\"",
    ];
    for text in texts {
        assert_eq!(errno(fs.write("jobs/a/config.json", text)), libc::EINVAL);
    }
    assert_eq!(fs.read("jobs/a/config.json"), HELLO);
}
