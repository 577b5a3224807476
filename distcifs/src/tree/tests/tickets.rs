//! Tickets: posting, claiming, and `.next` (doc/tree.md).

use serde_json::json;

use super::driver::{Fs, USUAL};
use super::verbs::{HELLO, errno};

on_both! {
    a_posted_ticket_is_there_as_files,
    a_claimant_takes_back_what_it_recorded,
    who_has_a_ticket_open_is_told_that_it_has_vanished,
    posting_twice_makes_one,
    tickets_that_are_refused,
    a_builds_ticket_is_posted_only_by_its_controller,
    a_ticket_starts_from_no_workspace_of_others,
    claimed_is_claimed,
    rm_gives_the_ticket_back,
    who_lost_a_claim_takes_the_next_one_from_nobody,
    next_gives_the_oldest,
    next_gives_only_what_the_labels_allow,
    next_gives_only_the_isolations_that_the_worker_names,
    a_hundred_waiters_and_one_gets_it,
    giving_back_has_a_bound_for_tasks_alone,
}

fn with_ticket(fs: &Fs) {
    fs.queue("q");
    fs.post("q", &json!({"id": "t"}));
}

/// "Posting makes it visible whole or not at all": its values are files, one value each, "a list
/// has one item a line".
fn a_posted_ticket_is_there_as_files(fs: Fs) {
    fs.queue("q");
    let id = fs.post(
        "q",
        &json!({"id": "t", "labels": ["b", "a"], "params": {"one": "1", "many": ["x", "y"]}}),
    );
    assert_eq!(id, "t");
    assert_eq!(fs.read("tickets/q/t/params/one"), "1");
    assert_eq!(fs.read("tickets/q/t/params/many"), "x\ny");
    let mut labels: Vec<String> = fs.read("tickets/q/t/labels").lines().map(str::to_owned).collect();
    labels.sort();
    assert_eq!(labels, ["a", "b"]);
    assert_eq!(fs.read("tickets/q/t/attempt"), "1");
    let ticket: serde_json::Value = serde_json::from_str(&fs.read("tickets/q/t/ticket.json")).unwrap();
    assert_eq!(ticket["id"], "t");
    // "owner: the user with whose rights the work is done": whoever posted one that stands alone.
    let me = fs.caller.uid;
    assert_eq!(
        (fs.read("tickets/q/t/owner"), &ticket["owner"]),
        (me.to_string(), &json!(me))
    );
    let made_up = fs.post("q", &json!({}));
    assert!(!made_up.is_empty() && fs.has(&format!("tickets/q/{made_up}")));
}

/// "A file that the claimant makes under `params/` records a parameter"; "`rm` of it takes it back". What the task itself
/// was given stays.
fn a_claimant_takes_back_what_it_recorded(mut fs: Fs) {
    fs.queue("q");
    fs.post("q", &json!({"id": "t", "params": {"own": "1"}}));
    let mut claimant = super::driver::process_of_another_session();
    let stranger = std::mem::replace(&mut fs.caller.tid, claimant.id());
    fs.echo("tickets/q/t/claim", &claimant.id().to_string()).unwrap();
    for name in ["a", "b", "c"] {
        fs.write(&format!("tickets/q/t/params/{name}"), name).unwrap();
    }
    fs.unlink("tickets/q/t/params/b").unwrap();
    fs.unlink("tickets/q/t/params/own").unwrap();
    assert_eq!(fs.list("tickets/q/t/params"), ["a", "c", "own"]);
    let me = std::mem::replace(&mut fs.caller.tid, stranger);
    fs.unlink("tickets/q/t/params/a").unwrap();
    fs.caller.tid = me;
    fs.write("tickets/q/t/params/b", "again").unwrap();
    for (name, value) in [("a", "a"), ("b", "again"), ("c", "c"), ("own", "1")] {
        assert_eq!(fs.read(&format!("tickets/q/t/params/{name}")), value);
    }
    claimant.kill().unwrap();
    claimant.wait().unwrap();
}

/// "What has vanished since its folder was listed is ENOENT, and there is no other error, by whole paths and by descriptors
/// of folders." opendir(3) opens a folder and asks fstat(2) then, upon which the kernel looks no path up again.
fn who_has_a_ticket_open_is_told_that_it_has_vanished(mut fs: Fs) {
    with_ticket(&fs);
    let claimant = fs.caller;
    fs.caller.tid = 1;
    {
        let ticket = fs.find("tickets/q/t").unwrap();
        let folder = fs.wait(fs.tree().opendir(fs.caller, ticket.at())).unwrap();
        let queue = fs.find("tickets/q").unwrap();
        fs.wait(fs.tree().rmdir(claimant, queue.at(), "t".into())).unwrap();
        let asked = |tid: u32| {
            let caller = crate::tree::Caller { tid, ..fs.caller };
            errno(fs.wait(fs.tree().getattr(caller, ticket.at(), None)))
        };
        assert_eq!(asked(1), libc::ENOENT);
        assert_eq!(asked(2), libc::ESTALE, "of whom the kernel looks the path up again");
        fs.tree().releasedir(ticket.at(), folder.handle);
    }
    fs.caller = claimant;
}

/// "posting the same one twice makes one"; another with the same id is EEXIST, "already posted".
fn posting_twice_makes_one(fs: Fs) {
    fs.queue("q");
    let ticket = json!({"id": "t", "params": {"a": "1"}});
    assert_eq!(fs.post("q", &ticket), "t");
    assert_eq!(fs.post("q", &ticket), "t");
    assert_eq!(fs.list("tickets/q"), ["t"]);
    let another = fs.try_post("q", &json!({"id": "t", "params": {"a": "2"}}));
    assert_eq!(errno(another), libc::EEXIST);
}

/// "names of this shape are refused for others"; what is no ticket is EINVAL, what is too long
/// EFBIG; and nothing of it is visible.
fn tickets_that_are_refused(fs: Fs) {
    fs.queue("q");
    for text in [
        "{",
        "[]",
        "{\"id\":\"a/b\"}",
        "{\"id\":\"..\"}",
        "{\"id\":\"a.1.0\"}",
        "{\"id\":\"a.1.control\"}",
        "{\"labels\":7}",
        "{\"nonsense\":1}",
    ] {
        let mut file = fs.open("tickets/q/.post", libc::O_RDWR).unwrap();
        let written = file.write(text.as_bytes()).and_then(|()| file.read());
        assert_eq!(errno(written), libc::EINVAL, "{text}");
    }
    let big = json!({"params": {"a": "x".repeat(256 << 10)}});
    assert_eq!(errno(fs.try_post("q", &big)), libc::EFBIG);
    assert_eq!(fs.list("tickets/q"), Vec::<String>::new());
}

/// "a ticket that names a build is posted only by the mount and user holding that build's
/// build-control ticket, else EPERM".
fn a_builds_ticket_is_posted_only_by_its_controller(fs: Fs) {
    fs.job("a", HELLO);
    fs.trigger("a", "");
    let ticket = json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0, "params": {"script": "true\n"}});
    assert_eq!(errno(fs.try_post("execute-shell", &ticket)), libc::EPERM);
    let control = fs.claim("build-control", "a.1.control").unwrap();
    assert_eq!(fs.post("execute-shell", &ticket), "a.1.0");
    assert_eq!(fs.post("execute-shell", &ticket), "a.1.0");
    drop(control);
}

/// "A workspace is for a task of a build, and must be there": one that is nowhere would stop gc and backup,
/// and whoever learnt the digest of another's would get its files.
fn a_ticket_starts_from_no_workspace_of_others(fs: Fs) {
    fs.queue("q");
    let nowhere = "ab".repeat(32);
    let alone = json!({"id": "x", "workspace": nowhere});
    assert_eq!(errno(fs.try_post("q", &alone)), libc::EINVAL);
    fs.job("a", HELLO);
    fs.trigger("a", "");
    let control = fs.claim("build-control", "a.1.control").unwrap();
    let task = json!({"job": "a", "build": 1, "task": 0, "workspace": nowhere});
    assert_eq!(errno(fs.try_post("q", &task)), libc::ENOENT);
    assert!(fs.list("tickets/q").is_empty());
    drop(control);
}

/// "for everyone else opening it for writing or changing its times is EEXIST".
fn claimed_is_claimed(fs: Fs) {
    with_ticket(&fs);
    let claim = fs.claim("q", "t").unwrap();
    assert_eq!(errno(fs.claim("q", "t")), libc::EEXIST);
    assert_eq!(errno(fs.open("tickets/q/t/claim", libc::O_WRONLY)), libc::EEXIST);
    assert_eq!(errno(fs.echo("tickets/q/t/claim", "1")), libc::EEXIST);
    assert!(!fs.read("tickets/q/t/claim").is_empty(), "node, process, time");
    drop(claim);
}

/// "`rm claim` gives the ticket back"; "a ticket given back … doesn't count against it".
fn rm_gives_the_ticket_back(fs: Fs) {
    with_ticket(&fs);
    fs.echo("tickets/q/t/claim", &fs.caller.tid.to_string()).unwrap();
    assert!(fs.has("tickets/q/t/claim"));
    fs.unlink("tickets/q/t/claim").unwrap();
    assert!(!fs.has("tickets/q/t/claim"));
    assert_eq!(fs.read("tickets/q/t/attempt"), "1");
    drop(fs.claim("q", "t").expect("claimed again"));
}

/// `.next`: "oldest first"; what is claimed by it takes a result.
fn next_gives_the_oldest(fs: Fs) {
    fs.queue("q");
    let ids = ["z", "y", "x"];
    for id in ids {
        fs.post("q", &json!({"id": id}));
    }
    for expected in ids {
        let (_next, id) = fs.ask("q", "linux x86_64").unwrap();
        assert_eq!(id, expected);
        fs.echo(&format!("tickets/q/{id}/result"), "0").unwrap();
        assert_eq!(fs.read(&format!("tickets/q/{id}/result")).lines().next(), Some("0"));
    }
}

/// "A ticket goes to a worker whose labels include all of the ticket's."
fn next_gives_only_what_the_labels_allow(fs: Fs) {
    fs.queue("q");
    fs.post("q", &json!({"id": "gpu", "labels": ["linux", "gpu"]}));
    fs.post("q", &json!({"id": "plain", "labels": ["linux"]}));
    let mut none = fs.open("tickets/q/.next", libc::O_RDWR).unwrap();
    none.write(b"arm\n").unwrap();
    assert_eq!(none.read().unwrap(), "\n", "nothing for it");
    let (_plain, id) = fs.ask("q", "linux x86_64").unwrap();
    assert_eq!(id, "plain");
    assert_eq!(none.read().unwrap(), "\n", "nothing for it still");
    let (_gpu, id) = fs.ask("q", "gpu linux").unwrap();
    assert_eq!(id, "gpu");
}

/// "A worker that names labels of this form takes tickets of these isolations only; one that names
/// none takes any."
fn next_gives_only_the_isolations_that_the_worker_names(fs: Fs) {
    fs.queue("q");
    fs.post("q", &json!({"id": "plain"}));
    fs.post("q", &json!({"id": "boxed", "isolation": "lxc", "labels": ["linux"]}));
    let (_held, id) = fs.ask("q", "linux isolation.lxc isolation.vm").unwrap();
    assert_eq!(id, "boxed", "the oldest is not isolated");
    fs.post("q", &json!({"id": "own", "isolation": "mine"}));
    let (_other, id) = fs.ask("q", "isolation.mine isolation.none").unwrap();
    assert_eq!(id, "plain");
    let (_any, id) = fs.ask("q", "linux").unwrap();
    assert_eq!(id, "own");
}

/// A hundred waiters, one ticket: one of them gets it, the others go on waiting.
fn a_hundred_waiters_and_one_gets_it(fs: Fs) {
    fs.queue("q");
    let mut waiting: Vec<_> = (0..100)
        .map(|_| {
            let mut next = fs.open("tickets/q/.next", libc::O_RDWR).unwrap();
            next.write(b"\n").unwrap();
            next
        })
        .collect();
    // Each reads until one of them has it, and once more: who comes late gets nothing either.
    let given = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for next in &mut waiting {
            let given = &given;
            scope.spawn(move || {
                let begun = std::time::Instant::now();
                loop {
                    let last = !given.lock().unwrap().is_empty();
                    let line = next.read().unwrap();
                    if line != "\n" {
                        given.lock().unwrap().push(line);
                    }
                    assert!(begun.elapsed() < USUAL, "nobody gets it");
                    if last {
                        return;
                    }
                }
            });
        }
        fs.post("q", &json!({"id": "t"}));
    });
    assert_eq!(*given.lock().unwrap(), ["t\n"]);
}

/// "They have a bound of their own, 10; the ticket of a build has none": build-control may be started
/// anew any number of times while a build lasts.
fn giving_back_has_a_bound_for_tasks_alone(fs: Fs) {
    with_ticket(&fs);
    fs.job("a", HELLO);
    fs.trigger("a", "");
    for (queue, id) in [("q", "t"), ("build-control", "a.1.control")] {
        for _ in 0..11 {
            let path = format!("tickets/{queue}/{id}/claim");
            // A claim by an open file that is closed at once belongs to this process.
            drop(fs.claim(queue, id).expect("a claim"));
            fs.unlink(&path).expect("given back");
            fs.wait_for("the claim's end", || !fs.has(&path));
        }
    }
    fs.wait_for("the outcome", || fs.read("tickets/q/t/.wait").starts_with("error"));
    fs.finish("build-control", "a.1.control", "success");
    assert_eq!(fs.wait_state("a", 1), "success");
}

/// "Who lost a claim gives nobody's back", root too: by the ticket's name it comes to the claim of who has it since.
fn who_lost_a_claim_takes_the_next_one_from_nobody(mut fs: Fs) {
    with_ticket(&fs);
    let own = fs.caller.tid;
    let mut processes = [(); 2].map(|()| super::driver::process_of_another_session());
    let claim = |fs: &mut Fs, tid: u32| {
        fs.caller.tid = tid;
        fs.echo("tickets/q/t/claim", &tid.to_string()).unwrap();
        let held = crate::repository::core::lock(&fs.tree().held)
            .values()
            .next()
            .cloned()
            .unwrap();
        held.claim.clone()
    };
    let [loser, winner] = [0, 1].map(|at: usize| processes[at].id());
    let lost = claim(&mut fs, loser);
    let ending = fs.tree().repository.clone();
    fs.wait(
        ending
            .claims
            .end_claim(&lost, crate::repository::model::claim::Cause::Died),
    );
    let held = claim(&mut fs, winner);
    fs.caller.tid = loser;
    assert_eq!(errno(fs.unlink("tickets/q/t/claim")), libc::ESTALE);
    assert!(held.check().is_ok());
    // Who had none takes it away, as root or the queue's owner.
    fs.caller.tid = own;
    fs.unlink("tickets/q/t/claim").unwrap();
    assert!(held.check().is_err());
    for process in &mut processes {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
