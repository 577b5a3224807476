//! Whose rights hold: what the tickets and builds of a job show, and to whom.

use std::fs::File;
use std::time::Duration;

use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, wait_for};
use serde_json::json;

/// Users that own nothing but what a test gives them.
const OWNER: u32 = 54_001;
const STRANGER: u32 = 54_002;
const WORKER: u32 = 54_003;
const CRON: u32 = 54_004;

/// Runs a script as a user without further groups.
fn as_user(mount: &Mount, user: u32, script: &str) -> distcifs_tests::shell::Sh {
    let user = user.to_string();
    let words = [
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "bash",
        "-c",
        script,
    ];
    mount.start_words(&words)
}

fn may(mount: &Mount, user: u32, script: &str) -> bool {
    as_user(mount, user, script).finish().ok()
}

/// A mount with a job of the owner's that has two tasks.
fn mount_with_job(mode: &str) -> Mount {
    let mount = Mount::new();
    mount.shell_job("a", &["echo SECRET", "true"]);
    mount.run(&format!("chown {OWNER}:{OWNER} jobs/a; chmod {mode} jobs/a"));
    mount
}

/// Starts a build of it, whose build-control is this test, and posts its first task's ticket: the claim
/// and the ticket's id.
fn start_build(mount: &Mount) -> (File, String) {
    let build = mount.trigger("a", "");
    let control = mount
        .claim("build-control", &format!("a.{build}.control"))
        .expect("the claim");
    let id = mount.post(
        "execute-shell",
        &json!({"job": "a", "build": build, "task": 0, "params": {"script": "echo SECRET"}}),
    );
    (control, id)
}

/// The names of the files in a ticket's folder that hold something of the job.
const FILES: &str = "ticket.json params/script labels attempt owner console .wait";

/// "A ticket of a build has its job's owner, group and mode": others read nothing of a private job's,
/// its owner everything, and the claimant what it needs.
#[test]
fn tickets_of_a_private_job_are_private() {
    let mount = mount_with_job("700");
    let (_control, control) = start_build(&mount);
    for file in FILES.split(' ') {
        let read = format!("cat tickets/execute-shell/{control}/{file}");
        assert!(may(&mount, OWNER, &read), "the owner reads {file}");
        assert!(!may(&mount, STRANGER, &read), "a stranger reads {file}");
    }
    assert!(!may(&mount, STRANGER, &format!("ls tickets/execute-shell/{control}")));
    assert!(!may(
        &mount,
        STRANGER,
        &format!("touch tickets/execute-shell/{control}/claim")
    ));
    // "The queue's owner, its group and the claimant have what the queue gives them."
    mount.run(&format!("chown {WORKER} tickets/execute-shell"));
    let claim = as_user(
        &mount,
        WORKER,
        &format!(
            "cd tickets/execute-shell/{control} && exec 9>claim && cat params/script && echo said >console \
             && echo file >workspace/f && echo 1 >params/found && sleep 2 && cat workspace/f && echo 0 >result && cat result"
        ),
    );
    wait_for("the claim", USUAL, || {
        mount.has(&format!("tickets/execute-shell/{control}/claim"))
    });
    for file in ["claim", "console", "workspace/f", "params/found", "workspace"] {
        let read = format!("ls tickets/execute-shell/{control}/{file} && cat tickets/execute-shell/{control}/{file}");
        assert!(!may(&mount, STRANGER, &read), "a stranger reads {file}");
    }
    assert_eq!(claim.finish().expect_ok(), "echo SECRET\nfile\n0");
}

/// "build.json and ticket.json have no more rights than config.json", nor has a parameter.
#[test]
fn what_a_configuration_says_is_read_by_its_readers_only() {
    let mount = mount_with_job("755");
    mount.run("chmod 600 jobs/a/config.json");
    let (_control, ticket) = start_build(&mount);
    for file in ["jobs/a/builds/1/build.json", "jobs/a/builds/1/config.json"]
        .map(str::to_owned)
        .into_iter()
        .chain(["ticket.json", "params/script", "labels"].map(|file| format!("tickets/execute-shell/{ticket}/{file}")))
    {
        assert!(may(&mount, OWNER, &format!("cat {file}")), "the owner reads {file}");
        assert!(
            !may(&mount, STRANGER, &format!("cat {file}")),
            "a stranger reads {file}"
        );
    }
    assert!(may(&mount, STRANGER, "cat jobs/a/builds/1/state jobs/a/builds/1/why"));
}

/// ".events gives a reader only the lines of jobs that it may read."
#[test]
fn events_tell_a_reader_of_what_it_may_read() {
    let mount = mount_with_job("700");
    mount.shell_job("open", &[]);
    mount.run("chmod 1777 $OUT");
    // The last thing that happens is for both.
    let listen = |user| {
        let script = "exec 9<.events && touch $OUT/listens.$(id -u) && timeout 60 sed -u '/^build open.1 /q' <&9";
        as_user(&mount, user, script)
    };
    let (owner, stranger) = (listen(OWNER), listen(STRANGER));
    for user in [OWNER, STRANGER] {
        wait_for("a listener", USUAL, || {
            mount.out().join(format!("listens.{user}")).exists()
        });
    }
    let _build = start_build(&mount);
    mount.trigger("open", "");
    let (owner, stranger) = (owner.finish().stdout, stranger.finish().stdout);
    for line in [
        "build a/1 pending",
        "task a/1/0-execute-shell posted",
        "ticket execute-shell/a.1.0 open",
    ] {
        assert!(owner.contains(line), "{line}: {owner}");
    }
    assert!(
        owner.contains("build open/1") && stranger.contains("build open/1"),
        "{stranger}"
    );
    assert!(!stranger.contains("a/1") && !stranger.contains("a.1"), "{stranger}");
}

/// "Who acts through a descriptor is who opened it", though a set-user-id program that inherits it closes
/// it: a stranger posts no ticket of another's build, which root's build-control could.
#[test]
fn a_descriptor_acts_as_who_opened_it() {
    let mount = mount_with_job("700");
    mount.queue("evil");
    mount.run(&format!("chown {STRANGER} tickets/evil"));
    let (_control, _id) = start_build(&mount);
    let post = |ticket: &str| {
        let script = format!(
            "perl -e 'open(my $f, \">\", \"tickets/evil/.post\") or die; fcntl($f, 2, 0); \
             syswrite($f, q({ticket})); exec \"su\", \"--version\"'"
        );
        as_user(&mount, STRANGER, &script).finish();
    };
    post(r#"{"id": "own"}"#);
    assert!(
        mount.has("tickets/evil/own"),
        "what the queue's owner may post is posted"
    );
    assert_eq!(mount.read("tickets/evil/own/owner"), STRANGER.to_string());
    post(r#"{"job": "a", "build": 1, "task": 1}"#);
    assert!(!mount.has("tickets/evil/a.1.1"), "a ticket of another's build");
}

/// "Programs named in `-o control=USER` get search on jobs, read on config.json and builds, write on
/// `trigger`", and nothing else.
#[test]
fn control_programs_look_at_all_jobs_and_trigger_them() {
    let mount = Mount::with(&["-o", &format!("control={WORKER}:{CRON}")], USUAL);
    mount.shell_job("a", &["true"]);
    mount.run(&format!(
        "chown {OWNER}:{OWNER} jobs/a; chmod 700 jobs/a; chmod 600 jobs/a/config.json"
    ));
    let read = "cat jobs/a/config.json && exec 3<>jobs/a/trigger && echo >&3 && read -r n <&3 && cd jobs/a/builds/$n && \
                cat state why build.json config.json && ls params tasks";
    for user in [WORKER, CRON] {
        assert!(may(&mount, user, read), "user {user}");
        for refused in [
            "echo >jobs/a/config.json",
            "echo abort >jobs/a/builds/1/ctl",
            "touch jobs/a/x",
            "rmdir jobs/a/builds/1",
        ] {
            assert!(!may(&mount, user, refused), "user {user}: {refused}");
        }
    }
    assert!(!may(&mount, STRANGER, "cat jobs/a/config.json") && !may(&mount, STRANGER, "ls jobs/a"));
}

/// A mount with a job of the owner's in mode `mode` that published two files, and a ticket of the
/// stranger's job, claimed by this test.
fn mount_with_view(mode: &str) -> (Mount, File, File) {
    let mount = Mount::new();
    mount.shell_job("of-owner", &["true"]);
    mount.run(&format!("chown {OWNER}:{OWNER} jobs/of-owner"));
    let build = mount.trigger("of-owner", "");
    let control = mount.claim("build-control", "of-owner.1.control").expect("the claim");
    mount.post("execute-shell", &json!({"job": "of-owner", "build": build, "task": 0}));
    let claim = mount.claim("execute-shell", "of-owner.1.0").expect("the claim");
    mount.run("cd tickets/execute-shell/of-owner.1.0/artifacts; echo ARTIFACT >open; chmod 755 open; echo ARTIFACT >shut; chmod 600 shut; mkdir d; ln -s open link; mkdir of-33; echo x >of-33/f; chown -R 33:33 of-33");
    mount
        .result("execute-shell", "of-owner.1.0", "success")
        .expect("the claim");
    mount
        .result("build-control", "of-owner.1.control", "success")
        .expect("the claim");
    drop((control, claim));
    mount.run(&format!("chmod {mode} jobs/of-owner"));
    mount.shell_job("mine", &["true"]);
    mount.run(&format!("chown {STRANGER}:{STRANGER} jobs/mine; chmod 700 jobs/mine"));
    mount.trigger("mine", "");
    let control = mount.claim("build-control", "mine.1.control").expect("the claim");
    mount.post("execute-shell", &json!({"job": "mine", "build": 1, "task": 0}));
    let claim = mount.claim("execute-shell", "mine.1.0").expect("the claim");
    (mount, control, claim)
}

/// The view of the jobs through the stranger's ticket.
const VIEW: &str = "tickets/execute-shell/mine.1.0/jobs";

/// "`tickets/<queue>/<id>/jobs/` shows `/jobs` as the job's owner sees it, whoever the worker is": to root,
/// and to the user that the ticket is handed to.
#[test]
fn a_ticket_shows_the_jobs_as_its_owner_sees_them() {
    for (mode, readable) in [("755", true), ("700", false)] {
        let (mount, _control, _claim) = mount_with_view(mode);
        looked_through(&mount, 0, readable);
        mount.run(&format!("chown {WORKER}:{WORKER} tickets/execute-shell/mine.1.0/claim"));
        looked_through(&mount, WORKER, readable);
        assert!(!may(&mount, OWNER, &format!("ls {VIEW}")), "only who runs the work");
        assert_eq!(mount.read("jobs/mine/builds/3/state"), "pending");
        let by = mount.read("jobs/mine/builds/3/by");
        assert!(
            by.contains(&format!("triggered {STRANGER}")),
            "the owner triggers: {by}"
        );
        let names = mount.list("tickets/execute-shell/mine.1.0");
        assert!(!names.contains(&"jobs".to_owned()), "it is not listed: {names:?}");
        if readable {
            assert_eq!(
                mount.run(&format!(
                    "stat -c '%u %a' {VIEW} {VIEW}/of-owner/builds/1/artifacts/open"
                )),
                format!("{WORKER} 500\n{WORKER} 755")
            );
        }
    }
}

/// What whoever runs the work may do in the view, where others' jobs are `readable` or not.
fn looked_through(mount: &Mount, who: u32, readable: bool) {
    let worker = |script: &str| match who {
        0 => mount.sh(script).ok(),
        user => may(mount, user, script),
    };
    let told = format!("user {who}, readable {readable}");
    for file in [
        "config.json",
        "builds/1/state",
        "builds/1/artifacts/open",
        "builds/last-success/artifacts/link",
    ] {
        assert_eq!(
            worker(&format!("cat {VIEW}/of-owner/{file}")),
            readable,
            "{told}: {file}"
        );
    }
    assert!(worker(&format!("cat {VIEW}/mine/config.json")), "{told}");
    assert_eq!(
        worker(&format!("ls {VIEW}/of-owner/builds/1/artifacts")),
        readable,
        "{told}"
    );
    // By hand the stranger could not read it either.
    assert!(
        !worker(&format!("cat {VIEW}/of-owner/builds/1/artifacts/shut")),
        "{told}"
    );
    // "Triggering there needs the owner's right to write that trigger."
    assert!(!worker(&format!("echo >{VIEW}/of-owner/trigger")), "{told}");
    assert!(worker(&format!("echo >{VIEW}/mine/trigger")), "{told}");
    for refused in [
        "echo x >mine/config.json",
        "echo abort >mine/builds/1/ctl",
        "touch mine/x",
        "mkdir x",
        "rm -r mine/builds/1",
        "chmod 777 mine",
    ] {
        assert!(!worker(&format!("cd {VIEW} && {refused}")), "{told}: {refused}");
    }
}

/// "The ids of an isolation never get into it: a script there would have the rights of the job's owner." "jobs/,
/// ticket.json, params/, `console` and `result` are as closed to them as to others." So it is through a
/// descriptor of the mount that somebody passed to the script, as it is by a path.
#[test]
fn the_ids_of_an_isolation_have_none_of_the_owners_rights() {
    let (mount, _control, _claim) = mount_with_view("700");
    let ticket = "tickets/execute-shell/mine.1.0";
    mount.run(&format!(
        "chmod 700 jobs/mine; chown {WORKER}:{WORKER} {ticket}; echo x > {ticket}/workspace/own"
    ));
    let isolated = |script: &str| may(&mount, WORKER, script);
    for closed in [
        &format!("ls {VIEW}"),
        &format!("cat {VIEW}/mine/config.json"),
        &format!("echo > {VIEW}/mine/trigger"),
        &format!("ls {ticket}"),
        &format!("cat {ticket}/ticket.json"),
        &format!("ls {ticket}/params"),
        &format!("cat {ticket}/console"),
        &format!("echo x >> {ticket}/console"),
        &format!("echo success > {ticket}/result"),
        &format!("rm {ticket}/claim"),
    ] {
        assert!(!isolated(closed), "{closed}");
    }
    for open in [
        &format!("cat {ticket}/workspace/own"),
        &format!("echo y > {ticket}/workspace/made"),
        &format!("touch {ticket}/artifacts/made"),
        &format!("ls {ticket}/needs"),
    ] {
        assert!(isolated(open), "{open}");
    }
    assert_eq!(mount.list("jobs/mine/builds"), ["1", "latest"]);
    mount.run(&format!("chown 0:0 {ticket}; chown {WORKER}:{WORKER} {ticket}/claim"));
    assert!(
        isolated(&format!("cat {VIEW}/mine/config.json")),
        "one user has what the owner has"
    );
}

/// "Tickets that stand alone have no such folder", nor have those that nobody works.
#[test]
fn only_a_claimed_ticket_of_a_build_shows_jobs() {
    let (mount, _control, claim) = mount_with_view("755");
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let _claim = mount.claim("q", "t").expect("an open ticket");
    assert!(!mount.has("tickets/q/t/jobs"));
    assert!(mount.has(VIEW));
    std::thread::sleep(Duration::from_secs(1));
    drop(claim);
    wait_for("the view to go", USUAL, || !mount.has(VIEW));
}

/// "All of it belongs to the owner and group of the job", whoever's ids its tasks had: he reads a file of
/// mode 600, and rm -r of a build is his.
#[test]
fn published_files_belong_to_the_jobs_owner() {
    let (mount, _control, _claim) = mount_with_view("755");
    assert_eq!(
        mount.run("stat -c %u:%g jobs/of-owner/builds/1/artifacts/shut"),
        format!("{OWNER}:{OWNER}")
    );
    assert!(may(&mount, OWNER, "cat jobs/of-owner/builds/1/artifacts/shut"));
    assert_eq!(
        mount.run("stat -c %u:%g jobs/of-owner/builds/1/artifacts/of-33"),
        format!("{OWNER}:{OWNER}")
    );
    // To root, who makes images of it, a ticket shows the ids as they were recorded.
    assert_eq!(
        mount.run(&format!("stat -c %u:%g {VIEW}/of-owner/builds/1/artifacts/of-33")),
        "33:33"
    );
    mount.run(&format!("chown {WORKER}:{WORKER} jobs/of-owner"));
    assert_eq!(
        mount.run("stat -c %u:%g jobs/of-owner/builds/1/artifacts/shut"),
        format!("{WORKER}:{WORKER}")
    );
}

/// "Error texts name what the job's owner may read and count the rest": a circle tells nobody what a
/// private job triggers.
#[test]
fn a_circle_counts_the_jobs_that_its_owner_may_not_read() {
    let mount = Mount::new();
    let job = |name: &str, downstream: &str| {
        mount.job(name, &json!({"tasks": [], "downstream_jobs": [downstream]}).to_string());
    };
    for (name, next) in [("secret-1", "secret-2"), ("secret-2", "known"), ("known", "mine")] {
        job(name, next);
    }
    mount.shell_job("mine", &[]);
    mount.run(&format!(
        "chown {OWNER}:{OWNER} jobs/secret-*; chmod 700 jobs/secret-*; chown {STRANGER}:{STRANGER} jobs/mine"
    ));
    let circle = json!({"tasks": [], "downstream_jobs": ["secret-1"]}).to_string();
    assert!(mount.write("jobs/mine/config.json", &circle).is_err());
    assert_eq!(
        mount.read("jobs/mine/config.error").split(": ").last(),
        Some("mine -> (2 jobs that its owner may not read) -> known -> mine")
    );
    // A job that would close one by its new name is named by that, though no job has it yet.
    job("leads", "comes");
    job("moves", "leads");
    assert!(!mount.sh("mv jobs/moves jobs/comes").ok());
    wait_for("the reason", USUAL, || {
        mount.log_tail().contains("a circle: comes -> leads -> comes")
    });
}

/// "To claim tickets needs write and search on the queue's folder", for the owner of the build too: who
/// claims says what was built.
#[test]
fn a_builds_owner_claims_its_tickets_only_where_the_queue_lets_it() {
    let mount = mount_with_job("755");
    let (_control, id) = start_build(&mount);
    let claim = format!("exec 9>tickets/execute-shell/{id}/claim");
    assert!(!may(&mount, OWNER, &claim) && !mount.has(&format!("tickets/execute-shell/{id}/claim")));
    mount.run(&format!(
        "chgrp {OWNER} tickets/execute-shell; chmod 770 tickets/execute-shell"
    ));
    assert!(may(&mount, OWNER, &claim), "with the right on the queue");
}

/// "`.next` and `.post` look at the queue's mode at each act, not at the open alone": a queue that is shut
/// gives its tickets to nobody who held a descriptor before, and takes none from him.
#[test]
fn a_queue_that_is_shut_is_shut_for_who_has_it_open() {
    let mount = Mount::new();
    mount.queue("q");
    mount.run("chmod 777 tickets/q; chmod 1777 $OUT");
    let script = r#"exec 3<>tickets/q/.next 4<>tickets/q/.post
        echo x >&3; read -r id <&3 && echo "asked: $id"
        echo '{"id": "let-in"}' >&4; read -r id <&4 && echo "posted: $id"
        touch $OUT/open; while [ ! -e $OUT/shut ]; do sleep 0.1; done
        read -r id <&3 && echo "claimed: $id"
        echo '{"id": "shut-out"}' >&4; read -r id <&4 && echo "posted: $id"
        echo end"#;
    let asker = as_user(&mount, STRANGER, script);
    wait_for("the descriptors", USUAL, || mount.out().join("open").exists());
    mount.run("chmod 700 tickets/q");
    mount.post("q", &json!({"id": "private"}));
    mount.run("touch $OUT/shut");
    let said = asker.finish();
    assert_eq!(said.stdout, "asked: \nposted: let-in\nend", "{}", said.stderr);
    assert_eq!(mount.list("tickets/q"), ["let-in", "private"]);
    for ticket in ["let-in", "private"] {
        assert!(!mount.has(&format!("tickets/q/{ticket}/claim")), "{ticket}");
    }
}

/// The same for a read that is under way when the queue is shut: it waits for a ticket, and gets none of those
/// that are posted from then on.
#[test]
fn who_waits_for_a_ticket_gets_none_of_a_queue_that_was_shut() {
    let mount = Mount::new();
    mount.queue("q");
    mount.run("chmod 777 tickets/q; chmod 1777 $OUT");
    let script = r#"exec 3<>tickets/q/.next; echo x >&3; touch $OUT/open
        while read -r id <&3; do [ -z "$id" ] || echo "claimed: $id"; done
        echo end"#;
    let asker = as_user(&mount, STRANGER, script);
    wait_for("the descriptor", USUAL, || mount.out().join("open").exists());
    // Whoever may still enter would see what is claimed for him.
    mount.run("chmod 755 tickets/q");
    mount.post("q", &json!({"id": "private"}));
    let said = asker.finish();
    assert_eq!(said.stdout, "end", "{}", said.stderr);
    assert!(!mount.has("tickets/q/private/claim"));
    let claimed =
        mount.run("exec 3<>tickets/q/.next; echo x >&3; while read -r id <&3 && [ -z \"$id\" ]; do :; done; echo $id");
    assert_eq!(claimed, "private", "it is for the next");
}

/// A group, in which the stranger is beside the owner of the job.
const DEVS: u32 = 54_100;

/// Runs a script as a user in the group.
fn as_member(mount: &Mount, user: u32, script: &str) -> distcifs_tests::shell::Sh {
    let (user, groups) = (user.to_string(), DEVS.to_string());
    let words = [
        "setpriv", "--reuid", &user, "--regid", &user, "--groups", &groups, "bash", "-c", script,
    ];
    mount.start_words(&words)
}

/// A job of the owner's whose folder the group may write, and whose config.json has this mode.
fn shared_job(config: &str) -> Mount {
    let mount = Mount::new();
    mount.shell_job("a", &["echo hello"]);
    mount.run(&format!(
        "chown {OWNER}:{DEVS} jobs/a; chmod 775 jobs/a; chmod {config} jobs/a/config.json; chmod 1777 $OUT
         sed 's/hello/evil/' jobs/a/config.json > $OUT/evil; chmod 644 $OUT/evil"
    ));
    mount
}

/// "Nobody slips a text into a scratch file that another is about to rename onto config.json, or to copy there":
/// neither by one that he made before and keeps open, nor by taking its name, nor by a link.
#[test]
fn a_scratch_file_of_another_is_no_way_into_the_configuration() {
    let mount = shared_job("600");
    let config = mount.read("jobs/a/config.json");
    let prepare = "umask 0; cd jobs/a; : > tmp; exec 3<>tmp; ln -s $OUT/elsewhere out; : > $OUT/elsewhere
        touch $OUT/ready; while [ ! -e $OUT/go ]; do sleep 0.1; done; cat $OUT/evil >&3
        touch $OUT/done; while [ ! -e $OUT/end ]; do sleep 0.1; done";
    let mallory = as_member(&mount, STRANGER, prepare);
    wait_for("the stranger", USUAL, || mount.out().join("ready").exists());
    let owner = |script: &str| as_member(&mount, OWNER, &format!("cd jobs/a; {script}")).finish();
    let refused = |script: &str| {
        let done = owner(script);
        assert!(
            !done.ok() && done.stderr.contains("Permission denied"),
            "{script}: {}",
            done.stderr
        );
    };
    refused("cat config.json > tmp");
    refused("cat config.json > out");
    mount.run("touch $OUT/go");
    wait_for("his text", USUAL, || mount.out().join("done").exists());
    refused("mv -f tmp config.json");
    let root = mount
        .start_words(&["mv", "-f", "jobs/a/tmp", "jobs/a/config.json"])
        .finish();
    assert!(!root.ok(), "nor root: {}", root.stderr);
    // Given to the owner, it is open to write all the same.
    mount.run(&format!("chown {OWNER} jobs/a/tmp"));
    refused("mv -f tmp config.json");
    assert_eq!(mount.read("jobs/a/config.json"), config);
    // Nor is one that a stranger to whom root gave it has cut, which opens nothing.
    mount.run(&format!(
        "cp jobs/a/config.json jobs/a/cut; chown {STRANGER} jobs/a/cut"
    ));
    let cut = "import os; os.truncate(\"jobs/a/cut\", 9)";
    mount.run(&format!("setpriv --reuid={STRANGER} --clear-groups python3 -c '{cut}'"));
    let root = mount
        .start_words(&["mv", "-f", "jobs/a/cut", "jobs/a/config.json"])
        .finish();
    assert!(
        !root.ok() && root.stderr.contains("Permission denied"),
        "nor root: {}",
        root.stderr
    );
    assert_eq!(mount.read("jobs/a/config.json"), config);
    mount.run("rm -f jobs/a/cut");
    owner("rm tmp out; cat config.json > tmp; cat config.json > old").expect_ok();
    for script in [
        "mv -f evil tmp",
        "rm -f tmp",
        "mv tmp taken",
        "mv -f old tmp",
        "echo x >> tmp",
    ] {
        let script = format!("cd jobs/a; [ -e evil ] || cp $OUT/evil evil; {script}");
        let done = as_member(&mount, STRANGER, &script).finish();
        assert!(!done.ok(), "{script}");
    }
    owner("mv -f tmp config.json && rm evil old").expect_ok();
    assert_eq!(mount.read("jobs/a/config.json"), config);
    mount.run("touch $OUT/end");
    mallory.finish().expect_ok();
}

/// What people do goes on working: the owner, root in a job of his, and a member of the group who may write
/// config.json, each by scratch files of his own.
#[test]
fn own_scratch_files_lead_into_the_configuration() {
    let mount = shared_job("664");
    let text = || mount.read("jobs/a/config.json");
    let ways = [
        "sed 's/hello/WORD/' config.json > tmp && mv tmp config.json",
        "sed -i 's/hello/WORD/' config.json",
        "sed 's/hello/WORD/' config.json > $OUT/new && cp $OUT/new config.json && rm $OUT/new",
        "mv config.json config.json~ && sed 's/hello/WORD/' config.json~ > config.json && rm config.json~",
    ];
    let before = text();
    for (who, user) in [("owner", OWNER), ("member", STRANGER), ("root", 0)] {
        for (at, way) in ways.iter().enumerate() {
            let word = format!("{who}{at}");
            let script = format!("cd jobs/a; {}", way.replace("WORD", &word));
            let done = as_member(&mount, user, &script).finish();
            assert!(done.ok(), "{who}: {script}: {}", done.stderr);
            assert_eq!(text(), before.replace("hello", &word), "{script}");
            mount.run(&format!("sed -i 's/{word}/hello/' jobs/a/config.json"));
            assert_eq!(text(), before);
        }
    }
    assert_eq!(mount.run("cat jobs/a/enabled"), "on");
}
