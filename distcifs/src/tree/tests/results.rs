//! Results of tickets (doc/tree.md).

use serde_json::json;

use super::driver::{Fs, process_of_another_session};
use super::verbs::errno;

on_both! {
    the_words_of_a_result,
    one_result_and_no_second,
    wait_gives_the_result,
    a_race_of_results_has_one_winner,
    who_lost_its_claim_sees_no_workspace_of_another,
}

fn with_ticket(fs: &Fs) {
    fs.queue("q");
    fs.post("q", &json!({"id": "t"}));
}

/// "Write an exit status (0 success, 1–255 failure) or one of success, failure, error, aborted;
/// further lines are a message for people." Anything else is EINVAL, and the claim still holds.
fn the_words_of_a_result(fs: Fs) {
    fs.queue("q");
    for (number, words) in [
        "0",
        "1",
        "255",
        "success",
        "failure",
        "error",
        "aborted",
        "0\nall is well\nindeed",
    ]
    .iter()
    .enumerate()
    {
        let id = format!("t{number}");
        fs.post("q", &json!({"id": id}));
        let claim = fs.claim("q", &id).unwrap();
        for bad in ["256", "-1", "maybe", "0x1", "1 2", "", "success!", "\u{0}"] {
            assert_eq!(errno(fs.result("q", &id, bad)), libc::EINVAL, "{bad:?}");
        }
        fs.result("q", &id, words)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let shown = fs.read(&format!("tickets/q/{id}/result"));
        assert!(shown.starts_with(words.lines().next().unwrap_or_default()), "{shown}");
        drop(claim);
    }
}

/// "A second result is EEXIST." "Scripts can read it back: empty means not committed." "A
/// finished ticket: ENOENT." Results end the claim.
fn one_result_and_no_second(fs: Fs) {
    with_ticket(&fs);
    assert_eq!(fs.read("tickets/q/t/result"), "");
    let claim = fs.claim("q", "t").unwrap();
    fs.result("q", "t", "0").unwrap();
    assert_eq!(errno(fs.result("q", "t", "1")), libc::EEXIST);
    assert!(!fs.has("tickets/q/t/claim"), "the result ends the claim");
    drop(claim);
    assert_eq!(errno(fs.claim("q", "t")), libc::ENOENT);
    assert_eq!(errno(fs.echo("tickets/q/t/claim", "1")), libc::ENOENT);
    // What `touch` does with a file that is not there.
    let touch = fs.open("tickets/q/t/claim", libc::O_WRONLY | libc::O_CREAT | libc::O_NONBLOCK);
    assert_eq!(errno(touch), libc::ENOENT);
}

/// ".wait: the result, once there is one"; a reader who waits for it gets it.
fn wait_gives_the_result(fs: Fs) {
    with_ticket(&fs);
    assert_eq!(fs.read("tickets/q/t/.wait"), "");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut given = String::new();
            fs.wait_for("the result", || {
                given = fs.read("tickets/q/t/.wait");
                !given.is_empty()
            });
            given
        });
        fs.finish("q", "t", "failure");
        assert!(waiter.join().unwrap().starts_with("failure"));
    });
}

/// Many results at the same moment from the claimant's own threads: one is taken.
fn a_race_of_results_has_one_winner(fs: Fs) {
    with_ticket(&fs);
    let claim = fs.claim("q", "t").unwrap();
    let write = |words: u32| {
        let mut file = fs.open("tickets/q/t/result", libc::O_WRONLY)?;
        file.write(format!("{words}\n").as_bytes())?;
        file.close()
    };
    let won: Vec<u32> = std::thread::scope(|scope| {
        let racers: Vec<_> = (1..=10)
            .map(|i| scope.spawn(move || write(i).is_ok().then_some(i)))
            .collect();
        racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(
        fs.read("tickets/q/t/result").lines().next(),
        Some(won[0].to_string().as_str())
    );
    drop(claim);
}

/// "Who lost his claim reads no result of another", and nothing that another made: a script that begins late would
/// begin elsewhere. Who never had it may look.
fn who_lost_its_claim_sees_no_workspace_of_another(mut fs: Fs) {
    with_ticket(&fs);
    let stranger = fs.caller;
    let loser = process_of_another_session();
    let me = crate::tree::Caller {
        tid: loser.id(),
        ..stranger
    };
    fs.caller = me;
    fs.echo("tickets/q/t/claim", &me.tid.to_string()).unwrap();
    fs.unlink("tickets/q/t/claim").unwrap();
    // "Who gave a ticket back sees `workspace` and `artifacts` for as long as nobody has it."
    for area in ["workspace", "artifacts"] {
        assert_eq!(fs.list(&format!("tickets/q/t/{area}")), Vec::<String>::new(), "{area}");
        assert!(fs.list("tickets/q/t").contains(&area.to_owned()), "{area}");
    }
    let other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    fs.caller.tid = other.id();
    fs.echo("tickets/q/t/claim", &other.id().to_string()).unwrap();
    fs.write("tickets/q/t/workspace/steps", "x").unwrap();
    // So it is while the other still works, by whatever path, and the kernel asks each time.
    let winner = std::mem::replace(&mut fs.caller, me);
    for area in ["workspace", "artifacts"] {
        assert_eq!(errno(fs.stat(&format!("tickets/q/t/{area}"))), libc::ESTALE, "{area}");
    }
    assert_eq!(errno(fs.bytes("tickets/q/t/workspace/steps")), libc::ESTALE);
    assert_eq!(errno(fs.write("tickets/q/t/workspace/steps", "y")), libc::ESTALE);
    fs.caller = winner;
    let ticket = fs.find("tickets/q/t").unwrap();
    let look = fs.tree().lookup(fs.caller, ticket.at(), "workspace".into());
    let found = fs.wait(look).unwrap();
    drop(ticket);
    assert_eq!(found.name_ttl, std::time::Duration::ZERO);
    fs.tree().forget(found.attributes.attr.ino, 1);
    assert_eq!(fs.read("tickets/q/t/workspace/steps"), "x");
    fs.result("q", "t", "0").unwrap();
    fs.caller = me;
    for area in ["workspace", "artifacts"] {
        assert_eq!(errno(fs.stat(&format!("tickets/q/t/{area}"))), libc::ESTALE, "{area}");
    }
    fs.caller = stranger;
    assert_eq!(fs.read("tickets/q/t/workspace/steps"), "x");
    for mut process in [other, loser] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
