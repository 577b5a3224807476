//! What a worker holds, in folders as a mount would show them.

use std::fs;
use std::path::Path;

use super::*;

/// One that says that all was told.
struct Tells;

impl Teller for Tells {
    const NAME: &'static str = "notify-test";
    const LABEL: &'static str = "test";

    fn whom(&self, _news: &News) -> String {
        "somebody".to_owned()
    }

    fn tell(&self, _news: &News) -> Outcome {
        Outcome::Told
    }
}

/// A claim of the only ticket.
fn claimed(folder: &Path) -> Claimed {
    fs::create_dir_all(folder).unwrap();
    let params = serde_json::json!({ "job": "a", "build": 1, "state": "failure" });
    let ticket = serde_json::json!({ "params": params, "owner": 1000 });
    fs::write(folder.join("ticket.json"), ticket.to_string()).unwrap();
    fs::write(folder.join("claim"), "this").unwrap();
    fs::write(folder.join("result"), "").unwrap();
    Claimed::new(folder.to_owned()).unwrap()
}

/// A claim that is lost while its ticket is told may come once more: the end of the first one is none of the second.
#[test]
fn the_end_of_a_lost_claim_leaves_the_next_one() {
    let root = std::env::temp_dir().join(format!("distcifs-notify-held-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    let folder = root.join("tickets/notify/t");
    let desk = Desk {
        tree: Tree::new(&root).unwrap(),
        teller: Tells,
        patience: Duration::ZERO,
        held: Mutex::default(),
        news: Condvar::new(),
    };
    let step = |held: &Held| desk.step("t", held);
    let known = || desk.lock().tickets.get("t").cloned();
    desk.hold("t".to_owned(), claimed(&folder));
    let first = known().unwrap();
    fs::rename(&folder, root.join("lost")).unwrap();
    fs::remove_file(root.join("lost/claim")).unwrap();
    desk.hold("t".to_owned(), claimed(&folder));
    step(&first);
    let second = known().expect("it is still held");
    step(&second);
    let read = known().expect("it was read");
    assert!(read.news.is_some());
    step(&read);
    assert!(known().is_none());
    assert_eq!(fs::read_to_string(folder.join("result")).unwrap(), "success\n");
    fs::remove_dir_all(&root).unwrap();
}
