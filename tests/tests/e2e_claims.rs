//! Who a claimant is, how long its claim lives, and what races leave.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use distcifs_tests::job::shell_task;
use distcifs_tests::programs::installed;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, errno, wait_for};
use serde_json::json;

/// A claim ends "within 1 s after the claimant is gone"; the rest is for a busy machine.
const OPEN_AGAIN: Duration = Duration::from_millis(1500);

/// Longer than a descriptor may be open and still be taken for one command's.
const MORE_THAN_ONE_COMMAND: &str = "sleep 0.8";

fn mount_with_ticket() -> Mount {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount
}

/// A queue that everybody may claim from, with a ticket.
fn open_queue() -> Mount {
    let mount = mount_with_ticket();
    mount.run("chmod 0777 tickets/q");
    mount
}

/// Runs a script as a user that owns nothing.
fn as_user(mount: &Mount, user: u32, script: &str) -> distcifs_tests::shell::Sh {
    as_user_of(mount, user, user, script)
}

/// The same with a group.
fn as_user_of(mount: &Mount, user: u32, group: u32, script: &str) -> distcifs_tests::shell::Sh {
    let (user, group) = (user.to_string(), group.to_string());
    let words = [
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &group,
        "--clear-groups",
        "bash",
        "-c",
        script,
    ];
    mount.start_words(&words)
}

fn ends(mount: &Mount) {
    wait_for("the ticket to be open again", OPEN_AGAIN, || {
        !mount.has("tickets/q/t/claim")
    });
}

/// Kind 1 in each shell: closing the descriptor gives the ticket back and counts no attempt.
#[test]
fn closing_a_held_descriptor_gives_the_ticket_back() {
    for shell in ["dash", "bash", "busybox sh"] {
        let mount = mount_with_ticket();
        let script = format!(
            "command exec 9>tickets/q/t/claim; {MORE_THAN_ONE_COMMAND}; [ -e tickets/q/t/claim ] && echo held
            exec 9>&-; i=0; while [ -e tickets/q/t/claim ] && [ $i -lt 15 ]; do sleep 0.1; i=$((i+1)); done
            [ -e tickets/q/t/claim ] || echo given; cat tickets/q/t/attempt"
        );
        assert_eq!(mount.sh_with(shell, &script).expect_ok(), "held\ngiven\n1", "{shell}");
    }
}

/// A copy in a child keeps a held descriptor open while the opener lives, also one that the opener
/// has closed itself.
#[test]
fn a_childs_copy_holds_the_claim_while_the_opener_lives() {
    let mount = mount_with_ticket();
    let mut holder = mount.start(&format!(
        "exec 9>tickets/q/t/claim; sleep 2 & {MORE_THAN_ONE_COMMAND}; exec 9>&-; echo closed; exec sleep 60 9>&-"
    ));
    wait_for("the opener's own copy to be closed", USUAL, || {
        holder.so_far().contains("closed")
    });
    assert!(mount.has("tickets/q/t/claim"), "the child has a copy");
    wait_for("the last copy's end", Duration::from_secs(4), || {
        !mount.has("tickets/q/t/claim")
    });
    assert!(holder.alive());
    assert_eq!(mount.read("tickets/q/t/attempt"), "1", "closed, not died");
    holder.kill9();
}

/// Kind 2: "the process whose id was written into it", for a parent as well.
#[test]
fn a_parents_id_in_each_shell() {
    for shell in ["dash", "bash", "busybox sh"] {
        let mount = mount_with_ticket();
        let mut parent = mount.start(&format!(
            "{shell} -c 'echo $PPID > tickets/q/t/claim'; echo claimed; sleep 60; true"
        ));
        wait_for("the claim", USUAL, || parent.so_far().contains("claimed"));
        std::thread::sleep(Duration::from_millis(1200));
        assert!(mount.has("tickets/q/t/claim"), "{shell}: the parent lives");
        parent.kill9_alone();
        ends(&mount);
        assert_eq!(mount.read("tickets/q/t/attempt"), "2");
        parent.kill9();
    }
}

/// "alive, of the writer's user and visible to the daemon (else EINVAL)"
#[test]
fn another_users_process_is_refused() {
    if !installed("setpriv") {
        return;
    }
    let mount = open_queue();
    let script = format!("echo {} > tickets/q/t/claim", std::process::id());
    let refused = as_user(&mount, 1000, &script).finish();
    assert!(
        !refused.ok() && refused.stderr.to_lowercase().contains("invalid"),
        "{refused:?}"
    );
    ends(&mount);
    assert_eq!(mount.read("tickets/q/t/attempt"), "1");
}

/// "in the writer's pid namespace": there a shell is number 1 or 2.
#[test]
fn a_process_id_of_another_namespace() {
    if !installed("unshare") {
        return;
    }
    let mount = mount_with_ticket();
    let mut inside =
        mount.start("exec unshare -p -f dash -c 'echo $$ > tickets/q/t/claim && echo claimed $$; sleep 60; true'");
    wait_for("the claim", USUAL, || inside.so_far().contains("claimed 1"));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(mount.has("tickets/q/t/claim"));
    let seen: u32 = claimant(&mount).parse().expect("an id");
    assert_ne!(seen, 1, "the daemon's own number for it");
    inside.kill9();
    let shell = nix::unistd::Pid::from_raw(seen.cast_signed());
    distcifs_tests::process::signal(shell, nix::sys::signal::Signal::SIGKILL);
    ends(&mount);
}

/// The process that the file `claim` names.
fn claimant(mount: &Mount) -> String {
    let text = mount.read("tickets/q/t/claim");
    let line = text.lines().find_map(|line| line.strip_prefix("pid "));
    line.unwrap_or_else(|| panic!("no pid in {text:?}")).to_owned()
}

/// A thread that ends is not its process.
#[test]
fn a_claim_made_by_a_thread_is_its_process_own() {
    let mount = mount_with_ticket();
    let path = mount.path("tickets/q/t/claim");
    let make = move || File::options().write(true).create_new(true).open(path);
    let claim = std::thread::spawn(make).join().expect("a thread").expect("the claim");
    std::thread::sleep(Duration::from_millis(1200));
    assert!(mount.has("tickets/q/t/claim"), "the thread is gone, its process is not");
    mount.result("q", "t", "0").expect("any thread may");
    drop(claim);
    assert_eq!(mount.read("tickets/q/t/result").lines().next(), Some("0"));
}

/// `touch` that is slow is still one command, and still its opener.
#[test]
fn a_slow_touch_claims() {
    let mount = mount_with_ticket();
    let path = mount.path("tickets/q/t/claim");
    let claim = File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("the claim");
    std::thread::sleep(Duration::from_millis(900));
    nix::sys::stat::futimens(
        &claim,
        &nix::sys::time::TimeSpec::UTIME_NOW,
        &nix::sys::time::TimeSpec::UTIME_NOW,
    )
    .expect("its own times");
    drop(claim);
    std::thread::sleep(OPEN_AGAIN);
    // The test's session goes on.
    assert!(mount.has("tickets/q/t/claim"), "what sets times is touch: kind 3");
    fs::remove_file(&path).expect("given back");
}

/// "`rm claim` gives the ticket back": to its claimant, root and the queue's owner; "all others
/// get EPERM".
#[test]
fn rm_of_somebody_elses_claim_is_refused() {
    if !installed("setpriv") {
        return;
    }
    let mount = open_queue();
    let holder = as_user(&mount, 1000, "exec 9>tickets/q/t/claim; echo held; exec sleep 60");
    wait_for("the claim", USUAL, || holder.so_far().contains("held"));
    for user in [1000, 1001] {
        let other = as_user(&mount, user, "rm -f tickets/q/t/claim").finish();
        assert!(
            !other.ok() && other.stderr.contains("not permitted"),
            "{user}: {other:?}"
        );
        assert!(mount.has("tickets/q/t/claim"));
    }
    mount.run("rm tickets/q/t/claim");
    assert!(!mount.has("tickets/q/t/claim"));
    drop(holder);
    let own = as_user(
        &mount,
        1000,
        "cd tickets/q/t; echo $$ > claim; rm claim; [ ! -e claim ]",
    );
    own.finish().expect_ok();
}

/// Many waiters, many tickets: each ticket goes to one waiter, none is lost; and waiters that are
/// killed while they wait burn no attempt.
#[test]
fn each_ticket_goes_to_one_of_many_waiters() {
    let mount = Mount::new();
    mount.queue("q");
    let script = "exec 3<>tickets/q/.next; echo >&3
        while read -r id <&3; do [ -n \"$id\" ] && { echo \"$id $(cat tickets/q/$id/attempt)\"; echo 0 > tickets/q/$id/result; }; done";
    let waiting: Vec<_> = (0..40).map(|_| mount.start(script)).collect();
    let mut doomed: Vec<_> = (0..40)
        .map(|_| {
            mount.start(
                "exec 3<>tickets/q/.next; echo >&3; while read -r id <&3 && [ -z \"$id\" ]; do :; done; kill -9 $$",
            )
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    for n in 0..100 {
        mount.post("q", &json!({"id": format!("t{n}")}));
        if n % 2 == 0
            && let Some(mut waiter) = doomed.pop()
        {
            waiter.kill9_alone();
        }
    }
    let given = || {
        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in waiting
            .iter()
            .flat_map(|w| w.so_far().lines().map(str::to_owned).collect::<Vec<_>>())
        {
            if let Some((id, attempt)) = line.split_once(' ') {
                seen.entry(id.to_owned()).or_default().push(attempt.to_owned());
            }
        }
        seen
    };
    wait_for("all tickets to be done", USUAL, || given().len() == 100);
    for (id, attempts) in given() {
        assert_eq!(attempts, ["1"], "{id}");
        assert_eq!(
            mount.read(&format!("tickets/q/{id}/result")).lines().next(),
            Some("0"),
            "{id}"
        );
    }
    // A killed waiter ends with its read, within a second: all at once, not one after another.
    for script in waiting.iter().chain(&doomed) {
        script.signal(nix::sys::signal::Signal::SIGKILL);
    }
}

/// After the result "`[ -e claim ]`" is false at once and the result reads back, from a working
/// directory in the ticket's folder, also when that went away with its build.
#[test]
fn the_ticket_folder_outlives_its_ticket() {
    let mount = Mount::new();
    mount.job_of("a", &[shell_task("true\n")]);
    mount.trigger("a", "");
    let control = mount.claim("build-control", "a.1.control").expect("the control ticket");
    mount.post(
        "execute-shell",
        &json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0}),
    );
    let worker = mount.start(
        "cd tickets/execute-shell/a.1.0; echo $$ > claim; echo x > workspace/x; echo 3 > result
        [ -e claim ] && echo claimed; echo first: $(cat result)
        while ! [ -e \"$OUT/go\" ]; do sleep 0.05; done
        [ -e claim ] && echo claimed; echo then: $(cat result); echo waited: $(cat .wait)",
    );
    wait_for("the result", USUAL, || worker.so_far().contains("first"));
    mount
        .result("build-control", "a.1.control", "failure")
        .expect("the end");
    drop(control);
    assert_eq!(mount.wait_state("a", 1), "failure");
    wait_for("the tickets to go", USUAL, || {
        mount.list("tickets/execute-shell").is_empty()
    });
    fs::write(mount.out().join("go"), "").expect("own folder");
    assert_eq!(worker.finish().stdout, "first: 3\nthen: 3\nwaited: 3");
}

/// The same for whom the build was taken away, being over before its task was; aborted first, it is
/// told so at once.
#[test]
fn a_worker_of_a_build_that_is_over_is_told() {
    for end in ["abort", "control"] {
        let mount = Mount::new();
        mount.job_of("a", &[shell_task("true\n")]);
        mount.trigger("a", "");
        let control = mount.claim("build-control", "a.1.control").expect("the control ticket");
        mount.post(
            "execute-shell",
            &json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0}),
        );
        let worker = mount.start(
            "cd tickets/execute-shell/a.1.0; command exec 9>claim; echo held
            while s=$(cat .wait) && [ -z \"$s\" ]; do :; done; echo \"waited: $s\" | head -n 1
            while [ -e claim ]; do sleep 0.1; done
            echo 0 > result || echo refused; echo x > workspace/x || echo fenced; [ -e claim ] && echo claimed; true",
        );
        wait_for("the claim", USUAL, || worker.so_far().contains("held"));
        if end == "abort" {
            mount.run("echo abort > jobs/a/builds/1/ctl");
            wait_for("the abort to be told", USUAL, || worker.so_far().contains("waited"));
        }
        mount
            .result("build-control", "a.1.control", "aborted")
            .expect("the end");
        drop(control);
        assert_eq!(mount.wait_state("a", 1), "aborted");
        let said = worker.finish();
        assert_eq!(
            said.stdout, "held\nwaited: aborted\nrefused\nfenced",
            "{end}: {}",
            said.stderr
        );
    }
}

/// "EPERM" and "ESTALE" as the owner of a queue and a stranger see them at `result`.
#[test]
fn a_descriptor_of_result_belongs_to_its_claim() {
    let mount = mount_with_ticket();
    let claim = mount.claim("q", "t").expect("the first");
    let result = File::options()
        .write(true)
        .open(mount.path("tickets/q/t/result"))
        .expect("its own");
    fs::remove_file(mount.path("tickets/q/t/claim")).expect("given back");
    let again = mount.claim("q", "t").expect("the second");
    assert_eq!(errno(std::io::Write::write_all(&mut &result, b"0\n")), libc::ESTALE);
    mount.result("q", "t", "1").expect("the second's");
    drop((claim, again));
}

/// "A claimant that is root can hand its ticket over": owners are shown elsewhere, and kept as they
/// were.
#[test]
fn a_ticket_handed_over_shows_its_owners_elsewhere() {
    let mount = Mount::new();
    mount.queue("q");
    let start = json!({"id": "t"});
    mount.post("q", &start);
    let _claim = mount.claim("q", "t").expect("an open ticket");
    mount.run("cd tickets/q/t; echo a > workspace/old; chown 7:8 workspace/old; mkdir -m 700 workspace/own; stat workspace/own");
    let before = mount.run("stat -c %u:%g tickets/q/t");
    mount.run("chown 500000:600000 tickets/q/t");
    let owners = |names: &str| mount.run(&format!("cd tickets/q/t/workspace; stat -c %u:%g {names}"));
    assert_eq!(
        owners(". ../artifacts old own .."),
        format!("500000:600000\n500000:600000\n500007:600008\n500000:600000\n{before}")
    );
    let script = "cd tickets/q/t/workspace/own; echo b > new; ln -s new link; ln new hard; mkdir d; chmod 4755 new; \
        touch -d @1000000 new; echo x > ../../artifacts/out; stat -c %u:%g new link d; chown 5 new || echo no chown";
    let said = as_user_of(&mount, 500_000, 600_000, script).finish().stdout;
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        ["500000:600000", "500000:600000", "500000:600000", "no chown"],
        "{said}"
    );
    let said = as_user_of(&mount, 500_001, 600_000, "cat tickets/q/t/workspace/own/new").finish();
    assert!(!said.ok(), "a folder of mode 700 is its owner's alone");
    mount.run("chown 0:0 tickets/q/t");
    assert_eq!(owners(". old own own/new own/link"), "0:0\n7:8\n0:0\n0:0\n0:0");
    assert_eq!(mount.run("stat -c %u:%g tickets/q/t"), before);
    mount.run("chown 500000:500000 tickets/q/t");
    mount.result("q", "t", "success").expect("the claim");
    assert_eq!(
        mount.run("cd tickets/q/t; stat -c '%u:%g %a %h' workspace/own/new artifacts/out"),
        "0:0 4755 2\n0:0 644 1"
    );
}

/// "`chown USER:GROUP` of `claim` hands the ticket to one user": everything in the folders is that
/// user's, whoever made it, and stands in the result as of 0.
#[test]
fn a_ticket_handed_to_a_user_is_all_that_users() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let _claim = mount.claim("q", "t").expect("an open ticket");
    mount.run("cd tickets/q/t; echo a > workspace/old; chown 7:8 workspace/old; mkdir -m 700 workspace/own; stat workspace/own");
    mount.run("chown 500000:600000 tickets/q/t/claim");
    assert_eq!(
        mount.run("cd tickets/q/t/workspace; stat -c %u:%g . ../artifacts old own"),
        "500000:600000\n500000:600000\n500000:600000\n500000:600000"
    );
    let script = "cd tickets/q/t/workspace/own; echo b > new; echo c >> ../old; echo x > ../../artifacts/out; cat new";
    let said = as_user_of(&mount, 500_000, 600_000, script).finish();
    assert_eq!(said.expect_ok(), "b");
    let said = as_user_of(&mount, 500_001, 600_000, "cat tickets/q/t/workspace/own/new").finish();
    assert!(!said.ok(), "a folder of mode 700 is its owner's alone");
    mount.run("chown 500001:600001 tickets/q/t/claim");
    assert_eq!(
        mount.run("stat -c %u:%g tickets/q/t/workspace/own/new"),
        "500001:600001"
    );
    mount.run("chown 0:0 tickets/q/t/claim");
    assert_eq!(mount.run("stat -c %u:%g tickets/q/t/workspace/own/new"), "0:0");
    mount.run("chown 500000:600000 tickets/q/t/claim");
    mount.result("q", "t", "success").expect("the claim");
    assert_eq!(
        mount.run("cd tickets/q/t; stat -c %u:%g workspace/own/new artifacts/out"),
        "0:0\n0:0"
    );
}

/// Only root can, and only while it holds the claim.
#[test]
fn a_ticket_is_handed_over_by_its_claimant_only() {
    let mount = open_queue();
    let refused = |who: &str| {
        assert!(!mount.sh("chown 500000 tickets/q/t").ok(), "{who}");
        assert!(!mount.sh("chown 500000 tickets/q/t/claim").ok(), "{who}");
    };
    refused("nobody has the claim");
    let user = as_user(&mount, 1234, "exec 9> tickets/q/t/claim; sleep 30");
    wait_for("the claim", USUAL, || mount.has("tickets/q/t/claim"));
    refused("another has the claim");
    drop(user);
}

/// Enters a ticket's folder, claims by its own id and, when `$OUT/go` is there, reads back and writes
/// `result`; what it was told stands in `$OUT/NAME.read` and `.write`.
const ZOMBIE: &str = r#"cd tickets/q/ID; echo $$ > claim; : > $OUT/NAME.claimed
AFTER{ until [ -e $OUT/go ]; do sleep 0.05; done; cat result > $OUT/NAME.read 2>&1
(echo 0 > result) 2> $OUT/NAME.write; : > $OUT/NAME.done; }"#;

/// "Reading back `result` by one who lost its claim is ESTALE, never another's outcome; so is writing":
/// for the claimant, for one below it that outlives it, and in the winner's own session.
#[test]
fn who_lost_its_claim_sees_no_result_of_another() {
    let mount = Mount::new();
    mount.queue("q");
    let id = mount.post("q", &json!({}));
    let script = |name: &str, after: &str| {
        let script = ZOMBIE.replace("ID", &id).replace("NAME", name);
        script.replace("AFTER", after)
    };
    let claimed = |name: &str| mount.out().join(format!("{name}.claimed")).exists();
    let lone = mount.start(&script("lone", ""));
    wait_for("the first claim", USUAL, || claimed("lone"));
    mount.run(&format!("rm tickets/q/{id}/claim"));
    // One whose claimant dies, and which stands in its folder all the same.
    let orphan = mount.start(&format!("{} & kill -9 $$", script("orphan", "")));
    wait_for("the second claim to be lost", USUAL, || {
        claimed("orphan") && !mount.has(&format!("tickets/q/{id}/claim"))
    });
    let child = script("child", "").replace('\'', "'\\''");
    let winner = format!(
        "dash -c '{child}' & until [ -e $OUT/child.claimed ]; do sleep 0.05; done; rm tickets/q/{id}/claim
        cd tickets/q/{id}; echo $$ > claim; echo success > result; [ \"$(cat result)\" = success ] || exit 3
        (echo 0 > result) 2>&1 | grep -q exists || exit 4; : > $OUT/go; for name in lone orphan child; do
        until [ -e $OUT/$name.done ]; do sleep 0.05; done; done; cat result"
    );
    assert_eq!(mount.run(&winner).trim(), "success");
    for name in ["lone", "orphan", "child"] {
        for what in ["read", "write"] {
            let told = fs::read_to_string(mount.out().join(format!("{name}.{what}"))).unwrap();
            assert!(told.contains("Stale"), "{name} {what}: {told}");
        }
    }
    assert_eq!(
        mount.read(&format!("tickets/q/{id}/result")),
        "success",
        "others see it"
    );
    drop((lone, orphan));
}

/// "After a claim is lost, path operations below the old folders (a working directory there included) answer
/// ESTALE": also for root, which may do everything with the claim that is held by then.
#[test]
fn who_lost_its_claim_touches_nothing_of_another() {
    let mount = Mount::new();
    mount.queue("q");
    let id = mount.post("q", &json!({}));
    let place = format!("tickets/q/{id}");
    let loser = mount.start(&format!(
        "cd {place}; echo $$ > claim; : > $OUT/claimed; until [ -e $OUT/go ]; do sleep 0.05; done
         for act in 'rm -f claim' 'cat claim' 'ls workspace' 'rm -rf workspace' 'touch artifacts/x'; do
         (eval \"$act\") > $OUT/said 2>&1; echo \"$act: $(cat $OUT/said)\" >> $OUT/all; done; : > $OUT/done; sleep 170"
    ));
    wait_for("the first claim", USUAL, || mount.out().join("claimed").exists());
    let folder = || fs::metadata(mount.path(&place)).map(|of| of.ino()).ok();
    let old = folder();
    mount.run(&format!("rm {place}/claim"));
    wait_for("a folder of the next claim", USUAL, || folder() != old);
    let said = mount.run(&format!(
        "cd {place}; echo $$ > claim; echo kept > workspace/file; : > $OUT/go
         until [ -e $OUT/done ]; do sleep 0.05; done; cat workspace/file; ls artifacts; echo 0 > result; cat result"
    ));
    let all = fs::read_to_string(mount.out().join("all")).unwrap();
    assert_eq!(said, "kept\n0", "{all}");
    assert_eq!(all.lines().count(), 5, "{all}");
    for line in all.lines() {
        assert!(line.contains("Stale"), "{line}");
    }
    drop(loser);
}

/// "`result` is EEXIST only where its own result stands": who never had the claim is told so.
#[test]
fn a_stranger_is_not_told_that_there_is_a_result_of_his() {
    let mount = Mount::new();
    mount.queue("q");
    let id = mount.post("q", &json!({}));
    let place = format!("tickets/q/{id}");
    mount.run(&format!("cd {place}; echo $$ > claim; echo 0 > result"));
    let said = mount.sh(&format!("setsid -w dash -c 'echo 0 > {place}/result' 2>&1; true"));
    assert!(said.stdout.contains("not permitted"), "{}", said.stdout);
}

/// "A ticket whose job was removed and made again under its name": the former claimant, still there, takes
/// nothing from it when it dies, and it is worked.
#[test]
fn a_job_made_again_has_tickets_of_its_own() {
    let mount = Mount::new();
    let config = r#"{ "tasks": [ { "type": "q" } ] }"#;
    mount.queue("q");
    mount.job("again", config);
    let _control = Worker::start(&mount, "build-control", &[]);
    assert_eq!(mount.trigger("again", ""), 1);
    wait_for("its ticket", USUAL, || mount.has("tickets/q/again.1.0"));
    let mut holder = mount.start("cd tickets/q/again.1.0; echo $$ > claim; : > $OUT/held; exec sleep 170");
    wait_for("its claim", USUAL, || mount.out().join("held").exists());
    mount.run("rm tickets/q/again.1.0/claim; cd tickets/q/again.1.0; echo $$ > claim; echo 0 > result");
    assert_eq!(mount.wait_state("again", 1), "success");
    fs::remove_dir_all(mount.path("jobs/again")).unwrap();
    mount.job("again", config);
    assert_eq!(mount.trigger("again", ""), 1);
    wait_for("its new ticket", USUAL, || mount.has("tickets/q/again.1.0/ticket.json"));
    mount.run("cd tickets/q/again.1.0; echo $$ > claim; exec 3>&-; true");
    holder.kill9_alone();
    wait_for("it to be open again", USUAL, || !mount.has("tickets/q/again.1.0/claim"));
    mount.run("cd tickets/q/again.1.0; echo $$ > claim; echo 0 > result");
    assert_eq!(mount.wait_state("again", 1), "success");
}

/// "Who lost his claim … finds nothing that another made in `workspace` and `artifacts`, held or finished": by a path that
/// the kernel knows from others, too.
#[test]
fn who_lost_a_claim_finds_nothing_of_who_works_now() {
    let mount = mount_with_ticket();
    let loser = mount.start(
        "cd tickets/q/t; echo $$ > claim; rm claim; touch $OUT/lost; until [ -e $OUT/go ]; do sleep 0.05; done
         cd ../../..; LC_ALL=C; export LC_ALL
         cat tickets/q/t/workspace/made 2>&1; ls tickets/q/t/artifacts 2>&1; echo x 2>&1 > tickets/q/t/workspace/mine
         touch $OUT/tried",
    );
    wait_for("the loss", USUAL, || mount.out().join("lost").exists());
    let winner = mount.start(
        "cd tickets/q/t; echo $$ > claim; echo of another > workspace/made; touch $OUT/made
         until [ -e $OUT/tried ]; do sleep 0.05; done; cd ../../../tickets/q/t; ls workspace; echo 0 > result",
    );
    wait_for("the work", USUAL, || mount.out().join("made").exists());
    assert_eq!(mount.read("tickets/q/t/workspace/made"), "of another");
    fs::write(mount.out().join("go"), "").unwrap();
    let (lost, won) = (loser.finish(), winner.finish());
    let said = format!("{}{}", lost.stdout, lost.stderr);
    assert!(said.matches("Stale file handle").count() >= 2, "{said}");
    assert!(!said.contains("of another"), "{said}");
    assert_eq!(won.stdout.trim(), "made");
}
