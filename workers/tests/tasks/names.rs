//! Names of refs mean what they mean to git, and what failed is called what it is.

use serde_json::json;

use crate::checkout::{CHECKOUT, git, repository};
use crate::{Bench, console};

/// "HEAD is on a local branch of the ref's name", "the tag is there for `git describe`, with `depth` too", and
/// pointers of LFS are told.
#[test]
fn what_was_asked_for_has_its_name() {
    let bench = Bench::new(CHECKOUT, "names");
    let upstream = bench.root.join("up");
    repository(&upstream);
    git(
        &upstream,
        "git tag light; git checkout -qb a/b; echo '*.bin filter=lfs' >.gitattributes; git add .; git commit -qm l",
    );
    let url = format!("file://{}", upstream.display());
    for depth in [0, 1] {
        for (number, (name, head, described)) in [
            ("main", "main", ""),
            ("refs/heads/a/b", "a/b", ""),
            ("heads/main", "main", ""),
            ("v1", "HEAD", "v1"),
            ("tags/v1", "HEAD", "v1"),
            ("refs/tags/light", "HEAD", "light"),
            ("HEAD", "HEAD", ""),
        ]
        .into_iter()
        .enumerate()
        {
            let mut params = json!({ "repository": url, "ref": name });
            if depth > 0 {
                params["depth"] = depth.into();
            }
            let ticket = bench.ticket(&format!("t{depth}{number}"), params);
            assert_eq!(bench.work(&ticket), "0", "{name}: {}", console(&ticket));
            let here = ticket.join("workspace");
            assert_eq!(git(&here, "git rev-parse --abbrev-ref HEAD"), head, "{name} {depth}");
            if !described.is_empty() {
                git(
                    &here,
                    &format!("git describe --tags --exact-match --match {described} HEAD"),
                );
            }
            assert_eq!(git(&here, "git status --porcelain"), "", "{name}");
            let lfs = console(&ticket).contains("LFS came as pointers");
            assert_eq!(lfs, name.contains("a/b") || name == "HEAD", "{name}");
        }
    }
}

/// "What failed is said, and not something else": a fetch that may succeed later is tried again first.
#[test]
fn a_server_that_refuses_is_called_that() {
    let bench = Bench::new(CHECKOUT, "refuses");
    // Nobody else listens on this address, whatever ports are in use.
    for (id, address, why) in [
        (
            "git",
            "git://127.0.77.1:9418/x.git",
            "its server refuses the connection",
        ),
        // The libraries of curl differ in what they say of this one.
        ("http", "http://127.0.77.1:9/smallstep/certificates", "its server "),
    ] {
        let ticket = bench.ticket(id, json!({ "repository": address }));
        let result = bench.work(&ticket);
        let whole = format!("can't read the repository {address}: {why}");
        assert!(
            result.contains(&whole) && !result.contains("certificate of"),
            "{result}"
        );
        let said = console(&ticket);
        assert_eq!(said.matches("trying again in").count(), 2, "{said}");
    }
}

/// "A repository without a branch is called empty", and what else a repository may not have is called what
/// it is.
#[test]
fn what_a_repository_does_not_have_is_said() {
    let bench = Bench::new(CHECKOUT, "lacks");
    let (empty, headless, full) = (bench.root.join("e"), bench.root.join("h"), bench.root.join("f"));
    git(&empty, "git init -q --bare .");
    repository(&headless);
    git(&headless, "git symbolic-ref HEAD refs/heads/gone");
    let commit = repository(&full);
    for (id, (upstream, name, why)) in [
        (&empty, "", "is empty: it has no branch yet"),
        (&empty, "main", "is empty: it has no branch yet"),
        (&headless, "", "its HEAD is a branch that is not there"),
        (&full, "origin/main", "the branch itself is called main"),
        (&full, "*/main", "write main"),
        (&full, &commit[..6], "at least 7 digits"),
        (&full, "nope", "has no nope"),
    ]
    .into_iter()
    .enumerate()
    {
        for depth in ["", "1"] {
            let params = json!({ "repository": upstream, "ref": name, "depth": depth });
            let ticket = bench.ticket(&format!("t{id}{depth}"), params);
            let result = bench.work(&ticket);
            assert!(result.starts_with("1\n") && result.contains(why), "{name}: {result}");
        }
    }
    let ticket = bench.ticket("short", json!({ "repository": full, "ref": &commit[..7] }));
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    let line = format!("there is no branch or tag {}: it is taken", &commit[..7]);
    assert!(console(&ticket).contains(&line), "{}", console(&ticket));
}
