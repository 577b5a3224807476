//! Queues and nodes: what waits, and who works.

use std::collections::HashMap;

use askama::Template;
use serde::Serialize;

use super::frame::{Frame, part};
use super::made;
use crate::web::answer::Answer;
use crate::web::ask::{App, Asked};
use crate::web::show::{Moment, plain};
use crate::web::sight::{self, Fault, Kind, Result, Seen, Sight};

/// Queues, and tickets of each, that are shown.
const QUEUES_MAX: usize = 100;
const TICKETS_MAX: usize = 50;

/// The same of one queue by itself.
const OF_ONE_MAX: usize = 1000;

/// Tasks of a build among which that of a ticket is looked for, and of all builds of one page.
const TASKS_MAX: usize = 10_000;
const TASKS_OF_PAGE_MAX: usize = 40_000;

/// Tickets of one page of which it is looked what they wait for.
const WHYS_MAX: usize = 1000;

/// Nodes that are shown.
const NODES_MAX: usize = 1000;

/// Longest file of a node, bytes.
const NODE_BYTES_MAX: u64 = 64 << 10;

/// A ticket.
#[derive(Debug, Serialize)]
struct Ticket {
    id: String,
    #[serde(skip)]
    href: Option<String>,
    claimed: bool,
    labels: String,
    attempt: String,
    /// What it waits for, of a build's.
    why: String,
    /// When it was posted.
    since: Moment,
}

/// A queue.
#[derive(Debug, Serialize)]
struct Queue {
    name: String,
    closed: bool,
    /// Why it can't be read now.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    tickets: Vec<Ticket>,
    /// Tickets beyond those that are shown.
    more: bool,
    /// Workers that wait for a ticket of it.
    waiting: u64,
}

#[derive(Template)]
#[template(path = "queues.html")]
struct QueuesPage<'a> {
    frame: Frame,
    queues: &'a [Queue],
}

/// A node: what its file says.
#[derive(Debug, Serialize)]
struct Node {
    name: String,
    facts: Vec<(String, String)>,
    /// Queues, how many workers wait there, their labels.
    waiting: Vec<(String, u64, String)>,
}

#[derive(Template)]
#[template(path = "nodes.html")]
struct NodesPage<'a> {
    frame: Frame,
    nodes: &'a [Node],
    status: Vec<(String, String)>,
}

/// Job, build and task of a ticket's id, if it is that of one of a build; the build's own has no task.
fn place_of(id: &str) -> Option<(&str, u64, Option<u64>)> {
    let mut parts = id.rsplitn(3, '.');
    let (last, number, job) = (parts.next()?, parts.next()?, parts.next()?);
    // After a retry `.r<k>` follows.
    if last.strip_prefix('r').is_some_and(|run| run.parse::<u64>().is_ok()) {
        return place_of(id.strip_suffix(last)?.strip_suffix('.')?);
    }
    let task = match last {
        "control" => None,
        task => Some(task.parse().ok()?),
    };
    Some((job, number.parse().ok()?, task))
}

/// The folder of a build's tasks, and their names by their places.
type Tasks = (Seen, HashMap<u64, String>);

/// What is looked up once for all tickets of a page.
struct Looked<'a> {
    sight: &'a Sight,
    /// By job and build; none where they can't be listed.
    tasks: HashMap<(String, u64), Option<Tasks>>,
    /// Names of tasks, and tickets, that may still be looked at.
    names_left: usize,
    whys_left: usize,
    /// Workers that wait, by their queues.
    waiting: HashMap<String, u64>,
}

impl<'a> Looked<'a> {
    fn new(sight: &'a Sight, nodes: &[Node]) -> Self {
        let mut waiting: HashMap<String, u64> = HashMap::new();
        for (queue, count, _) in nodes.iter().flat_map(|node| &node.waiting) {
            let all = waiting.entry(queue.clone()).or_default();
            *all = all.saturating_add(*count);
        }
        Looked {
            sight,
            tasks: HashMap::new(),
            names_left: TASKS_OF_PAGE_MAX,
            whys_left: WHYS_MAX,
            waiting,
        }
    }

    /// What a build's ticket waits for, as its build says to others.
    fn why(&mut self, (job, build, task): (&str, u64, Option<u64>)) -> Option<String> {
        self.whys_left = self.whys_left.checked_sub(1)?;
        let path = ["jobs", job, "builds", &build.to_string()];
        let why = match task {
            None => self.sight.at(&path).ok()?.text("why").ok()?,
            Some(task) => {
                let key = (job.to_owned(), build);
                if !self.tasks.contains_key(&key) {
                    let listed = self.list(&path);
                    self.tasks.insert(key.clone(), listed);
                }
                let (folder, names) = self.tasks.get(&key)?.as_ref()?;
                folder.enter(names.get(&task)?).ok()?.text("why").ok()?
            }
        };
        Some(plain(why.lines().next()?.as_bytes()))
    }

    fn list(&mut self, build: &[&str]) -> Option<Tasks> {
        let folder = self.sight.at(build).ok()?.enter("tasks").ok()?;
        let (names, _) = folder.names(TASKS_MAX.min(self.names_left)).ok()?;
        self.names_left -= names.len();
        let names = names.into_iter().filter_map(|(name, _)| {
            let name = name.into_string().ok()?;
            Some((name.split_once('-')?.0.parse().ok()?, name))
        });
        Some((folder, names.collect()))
    }
}

/// Of a ticket its id, labels and age are shown, and nothing else.
fn ticket(app: &App, looked: &mut Looked<'_>, queue: &Seen, id: &str) -> Option<Ticket> {
    let stat = queue.stat(id).ok()?;
    let folder = queue.enter(id).ok();
    let (claimed, place) = (
        folder.as_ref().is_some_and(|folder| folder.stat("claim").is_ok()),
        place_of(id),
    );
    let text = |name: &str| {
        folder
            .as_ref()
            .and_then(|folder| folder.text(name).ok())
            .unwrap_or_default()
    };
    Some(Ticket {
        id: plain(id.as_bytes()),
        href: place.map(|(job, build, _)| format!("{}/jobs/{}/builds/{build}", app.base(), part(job))),
        claimed,
        why: place
            .filter(|_| !claimed)
            .and_then(|place| looked.why(place))
            .unwrap_or_default(),
        labels: plain(
            text("labels")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .as_bytes(),
        ),
        attempt: text("attempt"),
        since: Moment(sight::modified(&stat)),
    })
}

fn queue(app: &App, looked: &mut Looked<'_>, tickets: &Seen, name: &str, most: usize) -> Result<Queue> {
    let mut found = Queue {
        name: plain(name.as_bytes()),
        closed: false,
        trouble: None,
        tickets: Vec::new(),
        more: false,
        waiting: looked.waiting.get(name).copied().unwrap_or(0),
    };
    let listed = tickets.enter(name).and_then(|folder| Ok((folder.names(most)?, folder)));
    match listed {
        Ok(((names, more), folder)) => {
            let folders = names.iter().filter(|(_, kind)| *kind == Kind::Folder);
            let ids = folders.filter_map(|(name, _)| name.to_str());
            found.tickets = ids.filter_map(|id| ticket(app, looked, &folder, id)).collect();
            found.tickets.sort_by_key(|ticket| ticket.since);
            found.more = more;
        }
        Err(Fault::Closed) => found.closed = true,
        Err(Fault::Unreadable(why)) => found.trouble = Some(why),
        Err(fault) => return Err(fault),
    }
    Ok(found)
}

/// All queues, or one.
///
/// # Errors
/// There is none of that name, or the tree is away.
pub(super) fn queues(app: &App, asked: &Asked, one: Option<&str>) -> Result<Answer> {
    let tickets = app.sight.at(&["tickets"])?;
    let mut looked = Looked::new(&app.sight, &all_nodes(app)?);
    let (names, most) = match one {
        Some(one) => (vec![one.to_owned()], OF_ONE_MAX),
        None => {
            let (names, _) = tickets.names(QUEUES_MAX)?;
            let names = names.into_iter().filter_map(|(name, _)| name.into_string().ok());
            (names.collect(), TICKETS_MAX)
        }
    };
    let mut queues = Vec::new();
    for name in names {
        match queue(app, &mut looked, &tickets, &name, most) {
            Ok(queue) => queues.push(queue),
            // It was removed meanwhile.
            Err(Fault::Absent) if one.is_none() => {}
            Err(fault) => return Err(fault),
        }
    }
    queues.sort_by(|a, b| {
        a.tickets
            .is_empty()
            .cmp(&b.tickets.is_empty())
            .then_with(|| a.name.cmp(&b.name))
    });
    let mut path: Vec<&[u8]> = vec![b"tickets"];
    path.extend(one.map(str::as_bytes));
    let frame = Frame::new(app, one.unwrap_or("Queues"), &["ls"], &path).live("page");
    let frame = match one {
        Some(_) => frame.within("Queues", "/tickets"),
        None => frame,
    };
    let page = QueuesPage { frame, queues: &queues };
    made(asked, &page, &queues)
}

/// `key value` lines.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((plain(key.as_bytes()), plain(value.as_bytes())))
    };
    text.lines().filter_map(pair).collect()
}

fn node(name: &str, text: &str) -> Node {
    let (waiting, facts): (Vec<_>, Vec<_>) = pairs(text).into_iter().partition(|(key, _)| key == "waiting");
    let waits = |(_, value): (String, String)| {
        let mut words = value.splitn(3, ' ');
        let (queue, count) = (words.next()?, words.next()?.parse().ok()?);
        Some((queue.to_owned(), count, words.next().unwrap_or_default().to_owned()))
    };
    Node {
        name: plain(name.as_bytes()),
        facts,
        waiting: waiting.into_iter().filter_map(waits).collect(),
    }
}

fn all_nodes(app: &App) -> Result<Vec<Node>> {
    let Ok(folder) = app.sight.at(&["nodes"]) else {
        // A tree without the folder has none.
        return Ok(Vec::new());
    };
    let (mut names, _) = folder.names(NODES_MAX)?;
    names.sort();
    let names = names.into_iter().filter_map(|(name, _)| name.into_string().ok());
    let read = |name: String| {
        let text = folder.bytes(&name, NODE_BYTES_MAX).ok()?;
        Some(node(&name, &String::from_utf8_lossy(&text)))
    };
    Ok(names.filter_map(read).collect())
}

/// The nodes.
///
/// # Errors
/// The tree is away.
pub(super) fn nodes(app: &App, asked: &Asked) -> Result<Answer> {
    let nodes = all_nodes(app)?;
    let page = NodesPage {
        frame: Frame::new(app, "Nodes", &["ls"], &[b"nodes"]).live("page"),
        nodes: &nodes,
        status: pairs(&app.sight.top()?.text_or_why("status")?),
    };
    made(asked, &page, &nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_of_builds_lead_to_them() {
        for (id, place) in [
            ("a.3.0", Some(("a", 3, Some(0)))),
            ("a.b.12.control", Some(("a.b", 12, None))),
            ("a.1.4.r2", Some(("a", 1, Some(4)))),
            ("a.1.control.r2", Some(("a", 1, None))),
            ("a.x.0", None),
            ("alone", None),
            ("a.1", None),
        ] {
            assert_eq!(place_of(id), place, "{id}");
        }
    }

    /// The tasks of a build are listed once, whatever of them waits.
    #[test]
    fn the_tasks_of_a_build_are_listed_once() {
        let tree = std::env::temp_dir().join(format!("web-queues-{}", std::process::id()));
        let tasks = tree.join("jobs/a/builds/7/tasks");
        for task in 0..50 {
            std::fs::create_dir_all(tasks.join(format!("{task}-unit"))).unwrap();
            std::fs::write(tasks.join(format!("{task}-unit/why")), format!("waits {task}\n")).unwrap();
        }
        let sight = Sight::new(tree.clone(), true);
        let mut looked = Looked::new(&sight, &[]);
        for task in 0..50 {
            assert_eq!(looked.why(("a", 7, Some(task))), Some(format!("waits {task}")));
        }
        assert_eq!(looked.why(("a", 8, Some(0))), None);
        assert_eq!(looked.names_left, TASKS_OF_PAGE_MAX - 50);
        assert_eq!(looked.whys_left, WHYS_MAX - 51);
        looked.whys_left = 0;
        assert_eq!(looked.why(("a", 7, Some(0))), None);
        std::fs::remove_dir_all(tree).unwrap();
    }

    #[test]
    fn a_node_says_who_waits() {
        let node = node(
            "vm",
            "node vm\nversion 1\nwaiting execute-shell 2 linux gpu\nwaiting cron x\n",
        );
        assert_eq!(node.waiting, [("execute-shell".into(), 2, "linux gpu".into())]);
        assert_eq!(node.facts.len(), 2);
    }
}
