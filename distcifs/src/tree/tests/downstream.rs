//! Jobs that are triggered by others (doc/job.md, downstream_jobs).

use super::driver::Fs;
use super::verbs::{HELLO, errno};

on_both! {
    a_circle_is_refused_at_the_write,
}

/// A configuration without tasks that triggers these jobs.
fn before(jobs: &[&str]) -> String {
    serde_json::json!({"tasks": [], "downstream_jobs": jobs}).to_string()
}

/// "A circle is refused when the configuration that would close it is written, with the whole
/// circle in words"; the one before stays in force.
fn a_circle_is_refused_at_the_write(fs: Fs) {
    fs.job("a", &before(&["b", "x"]));
    fs.job("b", &before(&["c"]));
    fs.job("x", HELLO);
    fs.job("c", HELLO);
    let circle = "{\n  \"tasks\": [],\n  \"downstream_jobs\": [\"x\", \"a\"]\n}\n";
    assert_eq!(errno(fs.write("jobs/c/config.json", circle)), libc::EINVAL);
    assert_eq!(
        fs.read("jobs/c/config.error"),
        "config.json:3:28: downstream_jobs: a circle: c -> a -> b -> c"
    );
    assert_eq!(fs.read("jobs/c/config.json"), HELLO.trim_end(), "the one before");
    // By a rename, as an editor does it, as well.
    fs.write("jobs/c/new", circle).unwrap();
    assert_eq!(errno(fs.rename("jobs/c/new", "jobs/c/config.json")), libc::EINVAL);
    // No circle: a diamond, and a job that is not there yet.
    fs.configure("x", &before(&["c", "later"]));
    // What closes it may also be a job that comes later.
    fs.mkdir("jobs/later").unwrap();
    let closes = fs.write("jobs/later/config.json", before(&["a"]));
    assert_eq!(errno(closes), libc::EINVAL);
    // Once the other sides are cut it may be written.
    fs.configure("b", HELLO);
    fs.configure("x", HELLO);
    fs.configure("c", circle);
}
