//! Pipelines beside the code: the file of a checkout becomes the ticket's `tasks.json`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::checkout::{CHECKOUT, git, recorded, repository};
use crate::{Bench, console};

/// Commits what stands in a folder.
fn commit(folder: &Path) {
    git(folder, "git add -A; git commit -qm more");
}

/// "git-checkout's parameter `tasks` is a path in the checkout or a list of which the first that exists counts": its
/// tasks become tasks.json, with the result; and what is said if none is there.
#[test]
fn the_file_of_a_checkout_becomes_tasks() {
    let bench = Bench::new(CHECKOUT, "pipelines");
    let upstream = bench.root.join("up");
    repository(&upstream);
    fs::create_dir(upstream.join("ci")).unwrap();
    for (name, text) in [
        (
            "ci/a.yaml",
            "tasks:\n- { type: lint, params: { level: 3.10, tag: 1 } }\n",
        ),
        ("b.toml", "[[tasks]]\ntype = \"lint\"\n"),
        ("c.json", "{ \"tasks\": [] }"),
        ("bad.yaml", "tasks:\n- type: lint\n  type: again\n"),
        ("notes.txt", "tasks: []"),
    ] {
        fs::write(upstream.join(name), text).unwrap();
    }
    symlink("ci/a.yaml", upstream.join("link.yaml")).unwrap();
    commit(&upstream);
    let lint = |params: Value| json!({ "tasks": [{ "type": "lint", "params": params }] });
    let a = lint(json!({ "level": 3.10, "tag": 1 }));
    for (id, params, outcome, tasks) in [
        ("path", json!({ "tasks": "ci/a.yaml" }), "0", Some(&a)),
        (
            "first",
            json!({ "tasks": [".distcifs.yaml", "b.toml", "c.json"] }),
            "0",
            Some(&json!({ "tasks": [{ "type": "lint" }] })),
        ),
        (
            "below",
            json!({ "tasks": ["ci/a.yaml"], "checkout-dir": "src/x" }),
            "0",
            Some(&a),
        ),
        (
            "none",
            json!({ "tasks": [".distcifs.yaml", ".distcifs.toml"] }),
            "error\nthe commit has none of .distcifs.yaml, .distcifs.toml",
            None,
        ),
        (
            "one",
            json!({ "tasks": "x.json" }),
            "error\nthe commit has no x.json",
            None,
        ),
        (
            "optional",
            json!({ "tasks": "x.json", "tasks_optional": true }),
            "0",
            None,
        ),
        (
            "optional-bad",
            json!({ "tasks": "bad.yaml", "tasks_optional": true }),
            "error\nbad.yaml:3:3: this key stands in its object already",
            None,
        ),
        (
            "link",
            json!({ "tasks": "link.yaml" }),
            "error\nlink.yaml: a link, and links are not followed",
            None,
        ),
        (
            "out",
            json!({ "tasks": "../a.yaml" }),
            "error\nparams.tasks '../a.yaml' must be a file of the checkout",
            None,
        ),
        (
            "ending",
            json!({ "tasks": "notes.txt" }),
            "error\nparams.tasks 'notes.txt' must end with .yaml",
            None,
        ),
        ("no", json!({}), "0", None),
    ] {
        let mut all = json!({ "repository": upstream });
        for (key, value) in params.as_object().unwrap() {
            all[key] = value.clone();
        }
        let ticket = bench.ticket_of(id, json!({ "job": "j", "build": 1, "task": 0, "params": all }));
        let result = bench.work(&ticket);
        assert!(result.starts_with(outcome), "{id}: {result}");
        let found = fs::read(ticket.join("tasks.json")).ok();
        let found: Option<Value> = found.map(|text| serde_json::from_slice(&text).unwrap());
        assert_eq!(found.as_ref(), tasks, "{id}");
        assert!(!recorded(&ticket).is_empty(), "{id}: the checkout went well");
        let said = console(&ticket);
        assert!(
            id != "optional" || said.contains("the commit has no x.json, so no tasks are added"),
            "{said}"
        );
    }
    let alone = bench.ticket("alone", json!({ "repository": upstream, "tasks": "ci/a.yaml" }));
    let result = bench.work(&alone);
    assert!(result.contains("a ticket that stands alone has no build"), "{result}");
}

/// A text of 1 MiB, which takes several times that with the places of its lines, comes over in one piece.
#[test]
fn a_long_file_comes_over_in_one_piece() {
    let bench = Bench::new(CHECKOUT, "long-pipelines");
    let upstream = bench.root.join("up");
    repository(&upstream);
    let script = "echo one more line of a long script\n".repeat(10);
    let tasks = vec![json!({ "type": "execute-shell", "params": { "script": script } }); 2_000];
    let text = json!({ "tasks": tasks }).to_string();
    assert!(text.len() > 800_000 && text.len() < 1 << 20, "{}", text.len());
    fs::write(upstream.join("long.json"), &text).unwrap();
    let lines = format!("tasks:\n{}", "- [1, 2, 3, 4, 5, 6, 7, 8, 9]\n".repeat(20_000));
    fs::write(upstream.join("lines.yaml"), lines).unwrap();
    commit(&upstream);
    for (id, name) in [("long", "long.json"), ("lines", "lines.yaml")] {
        let params = json!({ "repository": upstream, "tasks": name });
        let ticket = bench.ticket_of(id, json!({ "job": "j", "build": 1, "task": 0, "params": params }));
        assert_eq!(bench.work(&ticket), "0", "{name}");
        let found: Value = serde_json::from_slice(&fs::read(ticket.join("tasks.json")).unwrap()).unwrap();
        let count = found["tasks"].as_array().unwrap().len();
        assert_eq!(count, if name == "long.json" { 2_000 } else { 20_000 });
    }
}

/// A ticket that is to tell what changed, with what its trigger said; `builds` are those before it: state, ref, trust and
/// commit.
fn asked(bench: &Bench, id: &str, (source, params): (Value, Value), builds: &[[&str; 4]]) -> PathBuf {
    let n = builds.len() + 1;
    let ticket = json!({ "job": "j", "build": n, "task": 0, "changed": true, "source": source, "params": params });
    let ticket = bench.ticket_of(id, ticket);
    for (at, lines) in builds.iter().enumerate() {
        let build = ticket.join(format!("jobs/j/builds/{}", at + 1));
        fs::create_dir_all(&build).unwrap();
        for (name, line) in ["state", "ref", "trust", "commit"].iter().zip(lines) {
            fs::write(build.join(name), format!("{line}\n")).unwrap();
        }
    }
    ticket
}

/// "With `@base` they changed since the merge base with that branch. Else they changed since the commit that the job's
/// last trusted build of the same `@ref` built with success." What is not known is not told.
#[test]
fn a_checkout_tells_which_paths_changed() {
    let bench = Bench::new(CHECKOUT, "changed");
    let upstream = bench.root.join("up");
    let first = repository(&upstream);
    git(
        &upstream,
        "git checkout -q -b topic; mkdir src; echo 1 >src/t; git add .; git commit -qm t; \
         git checkout -q main; echo 2 >f; printf x >'o\tdd'; git add .; git commit -qm two",
    );
    let main = || json!({ "ref": "refs/heads/main" });
    let asks = json!({ "repository": format!("file://{}", upstream.display()), "ref": "main" });
    let shallow = |of: &Value| {
        let mut of = of.clone();
        of["depth"] = 1.into();
        of
    };
    let mut topic = asks.clone();
    topic["ref"] = "topic".into();
    let head = git(&upstream, "git rev-parse topic");
    let pull = json!({ "event": "pull_request", "ref": "refs/pull/1/head", "base": "refs/heads/main", "commit": head });
    let mut unsaid = pull.clone();
    unsaid["commit"] = "".into();
    let gone = "0123456789012345678901234567890123456789";
    let built = |state, name, trust, commit| [state, name, trust, commit];
    let good = built("success", "refs/heads/main", "trusted", &first);
    let two = json!(["f", "o\u{fffd}dd"]);
    for (id, source, params, builds, changed) in [
        ("none", json!({}), &asks, vec![good], None),
        ("first", main(), &asks, vec![], None),
        ("last", main(), &asks, vec![good], Some(&two)),
        (
            "over",
            main(),
            &asks,
            vec![
                good,
                built("failure", "refs/heads/main", "trusted", gone),
                built("success", "refs/heads/topic", "trusted", gone),
                built("success", "refs/heads/main", "untrusted", gone),
            ],
            Some(&two),
        ),
        (
            "gone",
            main(),
            &asks,
            vec![good, built("success", "refs/heads/main", "trusted", gone)],
            None,
        ),
        ("shallow", main(), &shallow(&asks), vec![good], Some(&two)),
        ("pull", pull.clone(), &topic, vec![], Some(&json!(["src/t"]))),
        // Of another repository than the trigger's its branches say nothing.
        ("other", pull.clone(), &asks, vec![], None),
        ("unsaid", unsaid, &topic, vec![], None),
        ("shallow-pull", pull.clone(), &shallow(&topic), vec![], None),
    ] {
        let ticket = asked(&bench, id, (source, params.clone()), &builds);
        let result = bench.work(&ticket);
        let said = console(&ticket);
        assert!(result == "0" && !said.contains("Not a valid"), "{id}: {said}");
        let told = fs::read(ticket.join("tasks.json")).ok();
        let told = told.map(|text| serde_json::from_slice::<Value>(&text).unwrap()["changed"].clone());
        assert_eq!(told.as_ref(), changed, "{id}: {said}");
        assert_eq!(
            said.contains("which paths changed is not known"),
            changed.is_none(),
            "{id}: {said}"
        );
    }
}

/// Of a submodule the commit is a path that changes, whatever `.gitmodules` says of it: that is written by whoever wrote
/// the commit.
#[test]
fn a_submodule_that_moves_is_a_path_that_changed() {
    let bench = Bench::new(CHECKOUT, "changed-submodule");
    let upstream = bench.root.join("up");
    let first = repository(&upstream);
    let modules = "[submodule \"x\"]\n\tpath = vendor/x\n\turl = ../x\n\tignore = all\n";
    fs::write(upstream.join(".gitmodules"), modules).unwrap();
    let commit_of = |link: &str| {
        let link = format!("git update-index --add --cacheinfo 160000,{link},vendor/x");
        git(
            &upstream,
            &format!("git add .gitmodules; {link}; git commit -qm more; git rev-parse HEAD"),
        )
    };
    let before = commit_of(&first);
    commit_of(&before);
    let asks = json!({ "repository": format!("file://{}", upstream.display()), "ref": "main" });
    let said = json!({ "ref": "refs/heads/main" });
    let good = ["success", "refs/heads/main", "trusted", &before];
    let ticket = asked(&bench, "moved", (said, asks), &[good]);
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    let told = fs::read(ticket.join("tasks.json")).unwrap();
    let told = serde_json::from_slice::<Value>(&told).unwrap();
    assert_eq!(told["changed"], json!(["vendor/x"]), "{}", console(&ticket));
}
