//! What a script tells its build: parameters by `$OUTPUTS`, tasks by `$TASKS`.

use super::*;

/// "`$OUTPUTS` is a file of `name=value` lines, which become parameters of the build after the script": however it ends,
/// all of them or none, and whatever was left in the place of the file leads nowhere.
#[test]
fn a_script_tells_parameters() {
    let bench = Bench::new("outputs");
    let secret = bench.root.join("secret");
    fs::write(&secret, "a=secret\n").unwrap();
    let link = format!("ln -s {} \"$OUTPUTS\"", secret.display());
    for (at, (script, outcome, told)) in [
        (
            "echo a=1 >> \"$OUTPUTS\"; echo b='x y=z' >> \"$OUTPUTS\"",
            "0\n",
            &[("a", "1"), ("b", "x y=z")][..],
        ),
        ("echo a=1 > \"$OUTPUTS\"; exit 3", "3\nexit 3\n", &[("a", "1")]),
        ("true", "0\n", &[]),
        (
            "printf 'a=1\\nb\\n' > \"$OUTPUTS\"",
            "error\nOUTPUTS:2: a line is name=value",
            &[],
        ),
        (
            "printf 'a=1\\n../b=2' > \"$OUTPUTS\"; exit 4",
            "error\nOUTPUTS:2: '../b' is no name",
            &[],
        ),
        (
            "head -c 65537 /dev/zero > \"$OUTPUTS\"",
            "error\nOUTPUTS: more than 65536 bytes\n",
            &[],
        ),
        ("mkfifo \"$OUTPUTS\"", "error\nOUTPUTS: not a file\n", &[]),
        (
            "mkdir -p \"$OUTPUTS/a/b\"; chmod 0 \"$OUTPUTS/a\"",
            "error\nOUTPUTS: not a file\n",
            &[],
        ),
        (&link, "error\nOUTPUTS: a link, and links are not followed\n", &[]),
    ]
    .iter()
    .enumerate()
    {
        let id = format!("j.1.{at}");
        fs::create_dir_all(bench.ticket(&id).join("params")).unwrap();
        let ticket = json!({ "job": "j", "build": 1, "task": 0, "params": { "script": script } });
        let folder = bench.give(&id, ticket);
        let said = result(&folder);
        assert!(said.starts_with(outcome), "{script}: {said}");
        let params = fs::read_dir(folder.join("params"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = params
            .map(|path| {
                (
                    path.file_name().unwrap().to_str().unwrap().to_owned(),
                    fs::read_to_string(&path).unwrap(),
                )
            })
            .collect();
        found.sort();
        let told: Vec<_> = told
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(found, told, "{script}");
        assert!(
            fs::symlink_metadata(folder.join("artifacts/.outputs")).is_err(),
            "{script}"
        );
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "a=secret\n");
}

/// job.md: "A line that can't be a parameter makes the outcome `error`, which names its number. Then none of them
/// counts": also where the tree refuses it, and not the script's own word is wrong. What was recorded before stays.
#[test]
fn a_line_that_the_tree_refuses_records_nothing() {
    let bench = Bench::new("outputs-refused");
    let params = bench.ticket("j.1.0").join("params");
    // A folder can't be written, as `upstream_job` can't.
    fs::create_dir_all(params.join("refused")).unwrap();
    let script = "echo kept > ../params/old; printf 'old=1\na=1\n\nrefused=2\nb=3\n' > \"$OUTPUTS\"";
    let ticket = json!({ "job": "j", "build": 1, "task": 0, "params": { "script": script } });
    let said = result(&bench.give("j.1.0", ticket));
    assert!(said.starts_with("error\nOUTPUTS:4: can't record refused"), "{said}");
    let mut names: Vec<_> = fs::read_dir(&params)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["old", "refused"]);
    assert_eq!(fs::read_to_string(params.join("old")).unwrap(), "kept\n");
}

/// "A script adds tasks to the build by the file `$TASKS`": after success alone, after `$OUTPUTS`, and whatever was left in
/// the place of the file leads nowhere.
#[test]
fn a_script_tells_tasks() {
    let bench = Bench::new("tasks");
    let secret = bench.root.join("secret");
    fs::write(&secret, "{\"tasks\": []}").unwrap();
    let link = format!("ln -s {} \"$TASKS\"", secret.display());
    let text = "{ \"tasks\": [] }\n";
    let write = format!("printf '%s' '{text}' > \"$TASKS\"");
    for (at, (script, outcome, told)) in [
        (&*write, "0\n", Some(text)),
        (&format!("{write}; exit 3"), "3\nexit 3\n", None),
        ("true", "0\n", None),
        (": > \"$TASKS\"", "0\n", None),
        (
            &format!("{write}; echo b > \"$OUTPUTS\""),
            "error\nOUTPUTS:1: a line is name=value",
            None,
        ),
        (
            "head -c 1048577 /dev/zero > \"$TASKS\"",
            "error\nTASKS: more than 1048576 bytes\n",
            None,
        ),
        ("mkfifo \"$TASKS\"", "error\nTASKS: not a file\n", None),
        ("mkfifo \"$TASKS\"; exit 3", "3\nexit 3\n", None),
        ("mkdir -p \"$TASKS/a\"", "error\nTASKS: not a file\n", None),
        (&link, "error\nTASKS: a link, and links are not followed\n", None),
    ]
    .iter()
    .enumerate()
    {
        let id = format!("j.1.{at}");
        fs::create_dir_all(bench.ticket(&id).join("params")).unwrap();
        let ticket = json!({ "job": "j", "build": 1, "task": 0, "params": { "script": script } });
        let folder = bench.give(&id, ticket);
        let said = result(&folder);
        assert!(said.starts_with(outcome), "{script}: {said}");
        let found = fs::read_to_string(folder.join("tasks.json")).ok();
        assert_eq!(found.as_deref(), *told, "{script}");
        assert!(
            fs::symlink_metadata(folder.join("artifacts/.tasks")).is_err(),
            "{script}"
        );
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "{\"tasks\": []}");
}
