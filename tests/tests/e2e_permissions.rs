//! The matrix of permissions: everybody tries everything, and doc/permissions.md says how it went.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use distcifs_tests::permissions::{Caller, Item, Table};
use distcifs_tests::programs::project;
use distcifs_tests::{HELLO, Mount, Worker};
use serde_json::json;

/// Ids of nobody on this machine. What each stands for is said in doc/permissions.md.
const OWNER: u32 = 3001;
const GROUP: u32 = 3002;
const OTHER: u32 = 3003;
const QUEUE_OWNER: u32 = 3004;
const QUEUE_GROUP: u32 = 3005;
const CLAIMANT: u32 = 3006;
const CONTROL: u32 = 3007;
const BUILDER: u32 = 3008;

/// A group of that number in which nobody else is.
const OWN: u32 = 100_000;

/// Jobs by the mode of their folder and, if it has one of its own, of config.json.
const MODES: [(&str, u32, Option<u32>); 5] = [
    ("700", 0o700, None),
    ("750", 0o750, None),
    ("755", 0o755, None),
    ("755/600", 0o755, Some(0o600)),
    ("775/600", 0o775, Some(0o600)),
];

/// Where the table stands in the page.
const BEGIN: &str =
    "<!-- table begin: DISTCIFS_BLESS=1 cargo test -p distcifs-tests --test e2e_permissions writes it -->\n";
const END: &str = "<!-- table end -->\n";

/// Ten callers try all of a tree, a second each on a quiet machine.
const TABLE_LIMIT: Duration = Duration::from_secs(900);

/// Stands in a job's configuration and nowhere else.
const IN_CONFIG: &str = "word-of-the-configuration";

/// The default value of its parameter.
const DEFAULT: &str = "word-by-default";

/// A tree with all kinds of files, and the callers.
struct Tree {
    mount: Mount,
    callers: Vec<Caller>,
    _control: Worker,
}

/// The matrix means nothing without other users; to skip it would be to promise what was not seen.
fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the matrix of permissions is made by several users: run it as root"
    );
}

impl Tree {
    fn new() -> Tree {
        need_root();
        let control = format!("control={CONTROL}:{BUILDER}");
        let mount = Mount::with(&["-o", &control], TABLE_LIMIT);
        // Everybody can run it there.
        let probe = mount.out().join("probe");
        fs::copy(env!("CARGO_BIN_EXE_probe"), &probe).expect("own folder");
        fs::set_permissions(&probe, Permissions::from_mode(0o755)).expect("own folder");
        let control = Worker::start(&mount, "build-control", &[]);
        mount.queue("q");
        mount.queue("open");
        mount.run(&format!(
            "chown {BUILDER} tickets/build-control; chown {QUEUE_OWNER}:{QUEUE_GROUP} tickets/q; chmod 775 tickets/q; chmod 777 tickets/open"
        ));
        let start = |name, uid, gid, groups: &[u32]| Caller::start(name, &probe, (uid, gid, groups), &[]);
        let callers = vec![
            start("root", 0, 0, &[]),
            start("owner", OWNER, GROUP, &[]),
            start("group", OWN, OWN, &[GROUP]),
            start("other", OTHER, OTHER, &[]),
            start("q-owner", QUEUE_OWNER, OWN + 1, &[]),
            start("q-group", OWN + 2, QUEUE_GROUP, &[]),
            start("claimant", CLAIMANT, QUEUE_GROUP, &[]),
            start("beside", CLAIMANT, QUEUE_GROUP, &[]),
            start("control", CONTROL, CONTROL, &[]),
            start("builder", BUILDER, BUILDER, &[]),
        ];
        Tree {
            mount,
            callers,
            _control: control,
        }
    }

    /// A worker that is root claims tickets and hands them to the job's owner, as whom a process
    /// below it joins the callers.
    fn hand_over(&mut self, tickets: &[String]) {
        let mut script = "cd \"$0\"".to_owned();
        for (at, ticket) in tickets.iter().enumerate() {
            let claim = format!("tickets/{ticket}/claim");
            script.push_str(&format!(
                " && exec {}> {claim} && chown {OWNER}:{GROUP} {claim}",
                at + 4
            ));
        }
        // Dash would become the last command.
        script.push_str(" && \"$@\"; true");
        let before = ["sh", "-c", &script, self.mount.root_text()];
        let probe = self.mount.out().join("probe");
        let mut task = Caller::start("task", &probe, (OWNER, GROUP, &[]), &before);
        assert_eq!(
            task.try_it("stat", "", self.mount.root()),
            0,
            "{tickets:?} can't be handed over"
        );
        self.callers.push(task);
    }

    fn caller(&mut self, name: &str) -> &mut Caller {
        self.callers
            .iter_mut()
            .find(|caller| caller.name == name)
            .expect("a caller of that name")
    }

    /// Makes the job of a mode: its first build has ended, a ticket of the second is open, one of
    /// the third is claimed, one of the fourth is left to be handed over, and the fifth is a stranger's that waits for
    /// approval.
    fn job(&mut self, mode: &str) -> String {
        let (_, folder, config) = MODES.iter().find(|(name, ..)| *name == mode).expect("a mode");
        let job = format!("j{}", mode.replace('/', "-"));
        let mount = &self.mount;
        let task = json!({ "type": "q", "params": { "word": "${p}" }, "environment": { "WORD": IN_CONFIG } });
        mount.job(
            &job,
            &json!({ "parameters": { "p": DEFAULT }, "tasks": [task], "cron": "@yearly" }).to_string(),
        );
        // Builds have the rights of who owned the job when they were triggered.
        mount.run(&format!("chown {OWNER}:{GROUP} jobs/{job}"));
        let trigger = |n: u32| {
            assert_eq!(mount.trigger(&job, "@cause=somebody"), u64::from(n));
            let id = format!("{job}.{n}.0");
            distcifs_tests::wait_for(&id, distcifs_tests::wait::USUAL, || {
                mount.has(&format!("tickets/q/{id}"))
            });
            id
        };
        let id = trigger(1);
        mount.run(&format!(
            "cd tickets/q/{id}; echo $$ > claim; echo line > console; mkdir workspace/d artifacts/d
             echo w > workspace/d/file; echo a > artifacts/d/file; echo v > params/recorded; echo 0 > result"
        ));
        mount.wait_state(&job, 1);
        trigger(2);
        let claimed = trigger(3);
        trigger(4);
        let stranger = format!("@trust=untrusted\n@commit={}", "ab".repeat(20));
        assert_eq!(mount.trigger(&job, &stranger), 5);
        mount.run(&format!(
            "echo bad > $OUT/bad; ! cp $OUT/bad jobs/{job}/config.json 2> /dev/null
             chmod {folder:o} jobs/{job}"
        ));
        if let Some(config) = config {
            mount.run(&format!("chmod {config:o} jobs/{job}/config.json"));
        }
        self.hold(&format!("q/{claimed}"));
        job
    }

    /// Tickets that stand alone, posted by the job's owner in the queue that is open to all.
    fn tickets_alone(&mut self) {
        let posted = |id: &str| json!({ "id": id, "params": { "word": "alone" } }).to_string();
        for id in ["alone", "alone-claimed", "alone-done"] {
            let words = [
                "setpriv",
                "--reuid=3001",
                "--regid=3002",
                "--clear-groups",
                "dash",
                "-euc",
            ];
            let script = format!("exec 3<>tickets/open/.post; echo '{}' >&3; read -r id <&3", posted(id));
            let words: Vec<&str> = words.into_iter().chain([script.as_str()]).collect();
            self.mount.start_words(&words).finish().expect_ok();
        }
        self.hold("open/alone-claimed");
        self.mount.run(
            "cd tickets/open/alone-done; echo $$ > claim; echo line > console
             echo w > workspace/file; echo a > artifacts/file; echo 0 > result",
        );
    }

    /// The claimant claims a ticket and keeps the descriptor.
    fn hold(&mut self, ticket: &str) {
        let path = self.mount.path(&format!("tickets/{ticket}/claim"));
        let errno = self.caller("claimant").try_it("hold", "", &path);
        assert_eq!(errno, 0, "the claimant can't claim {}", path.display());
        self.mount.run(&format!("ls tickets/{ticket}/workspace > /dev/null"));
    }

    fn item(&self, label: &str, name: &str) -> Item {
        Item::there(label, &self.mount.path(name))
    }
}

/// What everybody found.
fn table() -> String {
    let mut tree = Tree::new();
    let mut table = Table::default();
    let all = |_: &str| false;
    tree.tickets_alone();
    // Of root, and private: what tickets of the owner's jobs show of it.
    tree.mount.job("roots", HELLO);
    tree.mount.run("echo > jobs/roots/trigger; chmod 700 jobs/roots");
    let jobs: Vec<(&str, String)> = MODES.iter().map(|(mode, ..)| (*mode, tree.job(mode))).collect();
    tree.hand_over(&jobs.iter().map(|(_, job)| format!("q/{job}.4.0")).collect::<Vec<_>>());
    for name in [
        "", "README", "status", "metrics", ".drain", ".events", "nodes", "jobs", "tickets",
    ] {
        let item = tree.item(&format!("/{name}"), name);
        table.add(("", ""), &item, &mut tree.callers);
    }
    let node = format!("nodes/{}", tree.mount.list("nodes")[0]);
    let item = tree.item("/nodes/<node>", &node);
    table.add(("", ""), &item, &mut tree.callers);
    for id in ["alone", "alone-claimed", "alone-done"] {
        let path = tree.mount.path(&format!("tickets/open/{id}"));
        one_ticket(&mut tree, &mut table, (id, ""), &path);
    }
    for queue in ["build-control", "q", "open"] {
        for (label, name) in [("", ""), ("/.next", "/.next"), ("/.post", "/.post")] {
            let item = tree.item(&format!("/tickets/<queue>{label}"), &format!("tickets/{queue}{name}"));
            table.add((queue, ""), &item, &mut tree.callers);
        }
    }
    for (mode, job) in &jobs {
        for (which, path) in [("", ""), ("done", "/builds/1"), ("runs", "/builds/2")] {
            let path = tree.mount.path(&format!("jobs/{job}{path}"));
            let label = if which.is_empty() {
                "/jobs/<job>"
            } else {
                "/jobs/<job>/builds/<n>"
            };
            let stop = |label: &str| label == "/jobs/<job>/builds";
            for item in Item::walk(label, &path, if which.is_empty() { &stop } else { &all }) {
                let item = if which == "done" && item.label == label {
                    item.kept()
                } else {
                    item
                };
                table.add((which, mode), &item, &mut tree.callers);
            }
        }
        let approve = tree.item(
            "/jobs/<job>/builds/<n>/approve",
            &format!("jobs/{job}/builds/5/approve"),
        );
        table.add(("held", mode), &approve, &mut tree.callers);
        for name in ["latest", "next"] {
            let item = tree.item(
                &format!("/jobs/<job>/builds/{name}"),
                &format!("jobs/{job}/builds/{name}"),
            );
            table.add(("", mode), &item, &mut tree.callers);
        }
        tickets(&mut tree, &mut table, mode, job);
    }
    table.render()
}

/// The tickets of a job.
fn tickets(tree: &mut Tree, table: &mut Table, mode: &str, job: &str) {
    for (which, ticket) in [
        ("open", format!("q/{job}.2.0")),
        ("claimed", format!("q/{job}.3.0")),
        ("handed", format!("q/{job}.4.0")),
        ("control", format!("build-control/{job}.2.control")),
    ] {
        let path = tree.mount.path(&format!("tickets/{ticket}"));
        one_ticket(tree, table, (which, mode), &path);
    }
}

/// One ticket. What a claimant made would be gone after the first caller that may remove it: its
/// folders are tried, not what is in them. Who may remove a claim would give the ticket back.
fn one_ticket(tree: &mut Tree, table: &mut Table, which: (&str, &str), path: &Path) {
    let label = "/tickets/<queue>/<ticket>";
    let claimed = ["claimed", "alone-claimed", "handed"].contains(&which.0);
    let stop = |label: &str| {
        label.ends_with("/jobs") || (claimed && (label.ends_with("/workspace") || label.ends_with("/artifacts")))
    };
    let claim = format!("{label}/claim");
    let mut items = Item::walk(label, path, &stop);
    if !items.iter().any(|item| item.label == claim) {
        items.push(Item::absent(&claim, &path.join("claim")));
    }
    for item in items {
        let kept = item.label == claim || (item.label == label && which.0.starts_with("alone"));
        let item = if kept { item.kept() } else { item };
        table.add(which, &item, &mut tree.callers);
    }
    if which.1 == "700" && ["claimed", "handed"].contains(&which.0) {
        for (job, name) in [("<job>", "j700"), ("<root's>", "roots")] {
            for (file, folder) in [
                ("", true),
                ("/config.json", false),
                ("/trigger", false),
                ("/builds/1/console", false),
            ] {
                let item = Item::unseen(
                    &format!("{label}/jobs/{job}{file}"),
                    &path.join(format!("jobs/{name}{file}")),
                    folder,
                );
                table.add(which, &item, &mut tree.callers);
            }
        }
    }
}

/// doc/permissions.md says what each caller may do with each file; the table in it is made by this
/// test, and every change of it is to be looked at.
#[test]
fn everybody_may_what_the_page_says_and_no_more() {
    let found = table();
    let page = project().join("doc/permissions.md");
    let text = fs::read_to_string(&page).expect("the project has it");
    let (head, rest) = text.split_once(BEGIN).expect("the page has a table");
    let (told, tail) = rest.split_once(END).expect("the table ends");
    let block = format!(
        "\n{}\n",
        found
            .lines()
            .map(|line| if line.is_empty() {
                "\n".into()
            } else {
                format!("    {line}\n")
            })
            .collect::<String>()
    );
    if std::env::var_os("DISTCIFS_BLESS").is_some() {
        fs::write(&page, [head, BEGIN, &block, END, tail].concat()).expect("the project can be written");
        return;
    }
    assert!(told == block, "{}", difference(told, &block));
}

/// "What a configuration says has no more readers than config.json, wherever it stands."
#[test]
fn what_a_configuration_says_has_no_more_readers_than_it() {
    let mut tree = Tree::new();
    let job = tree.job("755/600");
    let mut found = Vec::new();
    for place in [
        format!("jobs/{job}"),
        "tickets/q".into(),
        "tickets/build-control".into(),
    ] {
        let path = tree.mount.path(&place);
        for item in Item::walk(&place, &path, &|label| label.ends_with("/jobs")) {
            for word in [IN_CONFIG, DEFAULT] {
                if !item.is_text() || tree.caller("root").try_it("search", word, &item.path) != 0 {
                    continue;
                }
                found.push(item.label.clone());
                for name in ["group", "other"] {
                    let errno = tree.caller(name).try_it("search", word, &item.path);
                    assert_eq!(errno, libc::EACCES, "{name} finds {word} in {}", item.label);
                }
            }
        }
    }
    for name in ["config.json", "build.json", "ticket.json", "params/p", "params/word"] {
        let there = found.iter().any(|label| label.ends_with(&format!("/{name}")));
        assert!(there, "it does not even stand in {name}: {found:?}");
    }
}

/// A program that reads a mode and sets it again, changed or not, gives nobody more than before, though
/// control programs have an ACL there; one that names the group's rights gives them.
#[test]
fn a_mode_that_is_read_and_set_again_gives_nobody_more() {
    let mut tree = Tree::new();
    let job = tree.job("700");
    let (folder, trigger) = (format!("jobs/{job}"), format!("jobs/{job}/trigger"));
    tree.mount.run(&format!(
        "chmod 600 {trigger}; for file in {folder} {trigger} {folder}/config.json; do
             chmod o-rwx $file; chmod u+w $file; chmod --reference=$file $file; chmod $(stat -c %a $file) $file
         done"
    ));
    let mut errno = |caller: &str, operation, name: &str| {
        let path = tree.mount.path(name);
        tree.caller(caller).try_it(operation, "", &path)
    };
    assert_eq!(errno("group", "list", &folder), libc::EACCES);
    assert_eq!(errno("group", "write", &trigger), libc::EACCES);
    assert_eq!(errno("control", "list", &folder), 0);
    assert_eq!(errno("control", "write", &trigger), 0);
    tree.mount.run(&format!("chmod 750 {folder}; chmod g+r {trigger}"));
    let mut errno = |caller: &str, operation, name: &str| {
        let path = tree.mount.path(name);
        tree.caller(caller).try_it(operation, "", &path)
    };
    assert_eq!(errno("group", "list", &folder), 0);
    assert_eq!(errno("group", "open", &trigger), 0);
    assert_eq!(errno("group", "write", &trigger), libc::EACCES);
    assert_eq!(tree.mount.run(&format!("stat -c %a {folder} {trigger}")), "750\n640");
    tree.mount.run(&format!("chmod g= {folder}"));
    let path = tree.mount.path(&folder);
    assert_eq!(tree.caller("group").try_it("list", "", &path), libc::EACCES);
}

/// "status and metrics name no job", and no more does what tells of the nodes.
#[test]
fn what_is_for_everybody_names_no_private_job() {
    let mut tree = Tree::new();
    let job = tree.job("700");
    let node = format!("nodes/{}", tree.mount.list("nodes")[0]);
    for name in ["status", "metrics", &node, "README"] {
        let path = tree.mount.path(name);
        for caller in ["other", "owner", "root"] {
            let errno = tree.caller(caller).try_it("search", &job, &path);
            assert_eq!(errno, libc::ENODATA, "{name} names {job}");
        }
    }
}

/// What a former owner tries through a descriptor that he kept, of each of these files.
fn former_owner_tries(former: &mut Caller, mount: &Mount, files: &[&str]) {
    for file in files {
        let path = mount.path(file);
        let stat = || mount.run(&format!("stat -c '%u %a' {file}"));
        let before = stat();
        let owner = former.uid.to_string();
        for (operation, argument) in [("fchmod", "511"), ("fchown", &*owner)] {
            let errno = former.try_it(operation, argument, &path);
            assert_eq!(errno, libc::EPERM, "{operation} of {file}, which is {before}");
        }
        assert_eq!(stat(), before, "{file}");
    }
}

/// "Owner and mode are changed by the owner as it is at that moment, and root": a descriptor from before
/// a chown changes nothing, though the kernel believes in the former owner; nor does it take the job back.
#[test]
fn a_descriptor_from_before_a_chown_changes_no_mode() {
    let mut tree = Tree::new();
    tree.mount.shell_job("x", &["true"]);
    tree.mount.queue("own");
    let own = format!("{OTHER}:{OTHER}");
    tree.mount
        .run(&format!("chown {own} jobs/x tickets/own; echo > jobs/x/trigger"));
    let files = [
        "jobs/x",
        "jobs/x/config.json",
        "jobs/x/trigger",
        "jobs/x/enabled",
        "jobs/x/builds/1/ctl",
        "jobs/x/builds/1/artifacts",
        "tickets/own",
    ];
    for given in ["jobs/x tickets/own", "tickets/own jobs/x"] {
        for file in files {
            let path = tree.mount.path(file);
            let former = tree.caller("other");
            assert_eq!(former.try_it("keep", "", &path), 0, "{file}");
            assert_eq!(former.try_it("fchmod", "493", &path), 0, "his own: {file}");
        }
        tree.mount.run(&format!("chown {OWNER}:{GROUP} {given}"));
        let (mount, callers) = (&tree.mount, &mut tree.callers);
        let former = callers
            .iter_mut()
            .find(|caller| caller.name == "other")
            .expect("a caller");
        former_owner_tries(former, mount, &files);
        let path = mount.path("jobs/x/config.json");
        assert_eq!(
            tree.caller("owner").try_it("chmod", "420", &path),
            0,
            "the new owner may"
        );
        tree.mount.run(&format!("chown {own} {given}"));
    }
}

/// "Where that is sticky the job's own owner", as he is at that moment: the kernel goes by the owner that it saw
/// last.
#[test]
fn who_owned_a_job_once_neither_removes_nor_renames_it() {
    let mut tree = Tree::new();
    tree.mount.run("chmod 1777 jobs tickets");
    tree.mount.shell_job("x", &["true"]);
    tree.mount.queue("own");
    let own = format!("{OTHER}:{OTHER}");
    tree.mount.run(&format!(
        "chown {own} jobs/x tickets/own; chmod 1777 jobs/x; echo > jobs/x/trigger; echo abort > jobs/x/builds/1/ctl"
    ));
    tree.mount.wait_state("x", 1);
    let (job, away) = (tree.mount.path("jobs/x"), tree.mount.path("jobs/y"));
    let (queue, build) = (tree.mount.path("tickets/own"), tree.mount.path("jobs/x/builds/1"));
    for path in [&job, &queue, &build] {
        assert_eq!(tree.caller("other").try_it("stat", "", path), 0, "the kernel sees his");
    }
    let given = format!("chown {OWNER}:{GROUP} jobs/x tickets/own");
    tree.mount.run(&given);
    let former = tree.caller("other");
    let name = away.display().to_string();
    let tried = [
        ("rmdir", "", &job),
        ("rename", &*name, &job),
        ("rmdir", "", &queue),
        ("rmdir", "", &build),
    ];
    for (operation, argument, path) in tried {
        let errno = former.try_it(operation, argument, path);
        assert_eq!(errno, libc::EPERM, "{operation} of {}", path.display());
    }
    let owner = tree.caller("owner");
    assert_eq!(owner.try_it("stat", "", &build), 0, "it is there");
    assert_eq!(owner.try_it("rename", &name, &job), 0);
    assert_eq!(owner.try_it("rmdir", "", &away), 0);
    assert_eq!(owner.try_it("rmdir", "", &queue), 0);
}

/// "Whoever may write a job's folder and not config.json neither reads nor writes that by a rename, nor by
/// making it": as the group of a job of mode 775 whose config.json has mode 600.
#[test]
fn a_folder_that_is_written_gives_nobody_the_configuration() {
    let mut tree = Tree::new();
    let job = tree.job("775/600");
    let mount = &tree.mount;
    let config = format!("jobs/{job}/config.json");
    let text = mount.read(&config);
    mount.run("mkdir -m 777 $OUT/open");
    let by = |user: u32, group: u32, script: &str| {
        let words = [
            "setpriv".to_owned(),
            format!("--reuid={user}"),
            format!("--regid={user}"),
            format!("--groups={group}"),
            "dash".to_owned(),
            "-euc".to_owned(),
            format!("cd jobs/{job}; {script}"),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        mount.start_words(&words).finish()
    };
    let text_of = |name: &str| format!("echo '{{\"tasks\": []}}' > {name}");
    let tried = [
        "mv -f config.json copy".to_owned(),
        format!("{}; mv -f new config.json", text_of("new")),
        format!("{}; mv -f $OUT/open/new config.json", text_of("$OUT/open/new")),
        format!("{}; cp --remove-destination new config.json", text_of("new")),
    ];
    for script in &tried {
        let done = by(OWN, GROUP, script);
        assert!(!done.ok(), "{script}");
        assert!(done.stderr.contains("Permission denied"), "{script}: {}", done.stderr);
        assert!(!mount.has(&format!("jobs/{job}/copy")), "{script}");
        assert_eq!(mount.read(&config), text, "{script}");
    }
    // His own files there are his, and the owner may all of it.
    by(OWN, GROUP, "echo x > notes; mv notes more; rm more new $OUT/open/new").expect_ok();
    for script in &tried {
        by(OWNER, GROUP, script).expect_ok();
    }
}

/// The lines that differ.
fn difference(told: &str, found: &str) -> String {
    let (told, found): (Vec<&str>, Vec<&str>) = (told.lines().collect(), found.lines().collect());
    let gone = told
        .iter()
        .filter(|line| !found.contains(line))
        .map(|line| format!("-{line}\n"));
    let new = found
        .iter()
        .filter(|line| !told.contains(line))
        .map(|line| format!("+{line}\n"));
    let lines: String = gone.chain(new).collect();
    format!(
        "who may do what has changed (- doc/permissions.md, + now). Look at each line; DISTCIFS_BLESS=1 takes them over.\n{lines}"
    )
}
