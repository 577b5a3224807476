//! Nodes and queues as `top` reads them: one after another, so that a tree with many, or a slow one, holds up nothing
//! else that is looked at.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::facts::{self, Node, Queue};
use super::sight::{FACTS_BYTES_MAX, Fault, Result, Top, is_name};

/// Queues and nodes that are looked at.
const QUEUES_MAX: usize = 200;
const NODES_MAX: usize = 256;

/// Among so many of a queue's tickets, the oldest, one that is not claimed is looked for; claimed ones come first.
const LOOKED_MAX: usize = 256;
const LOOKED_MIN: usize = 16;

/// Tasks of a build among which that of a ticket is looked for.
const TASKS_MAX: usize = 4096;

/// How long the oldest ticket of one queue is looked for.
const QUEUE_TIME: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) nodes: Vec<Node>,
    pub(super) queues: Vec<Queue>,
    /// Those that were not come to, or can't be read just now.
    pub(super) unread: usize,
    /// Whether there are more than are looked at.
    pub(super) cut: bool,
    /// Why nothing is known of queues.
    pub(super) no_figures: Option<String>,
}

/// A look at all nodes and queues.
#[derive(Debug)]
pub(super) struct LateLook {
    /// Nodes that are still to be looked at.
    names: VecDeque<String>,
    /// The same of queues, once these are known: open and claimed tickets of each.
    figures: Option<VecDeque<(String, (u64, u64))>>,
    found: Found,
}

impl LateLook {
    /// One that has all before it.
    ///
    /// # Errors
    /// The tree is away.
    pub(super) fn begin(top: &Top) -> Result<Self> {
        let mut found = Found::default();
        let names = match top.names("nodes", NODES_MAX) {
            Ok((mut names, cut)) => {
                names.sort();
                found.cut = cut;
                names
            }
            Err(Fault::Absent | Fault::Closed) => Vec::new(),
            Err(Fault::Odd(_)) => {
                found.unread += 1;
                Vec::new()
            }
            Err(fault @ Fault::Away(_)) => return Err(fault),
        };
        Ok(LateLook {
            names: names.into(),
            figures: None,
            found,
        })
    }

    /// Looks at the next one; whether there is none.
    ///
    /// # Errors
    /// The tree is away.
    pub(super) fn step(&mut self, top: &Top) -> Result<bool> {
        if let Some(name) = self.names.pop_front() {
            self.look_at_node(top, name)?;
            return Ok(false);
        }
        let Some(figures) = &mut self.figures else {
            self.figures = Some(self.queues(top)?);
            return Ok(false);
        };
        let Some((name, figures)) = figures.pop_front() else {
            return Ok(true);
        };
        self.look_at_queue(top, name, figures)?;
        Ok(false)
    }

    /// What it found so far, the queues first in which something waits.
    pub(super) fn found(mut self) -> Found {
        let queues = self.figures.as_ref().map_or(1, VecDeque::len);
        self.found.unread += self.names.len() + queues;
        let first = |a: &Queue, b: &Queue| (b.open > 0).cmp(&(a.open > 0)).then_with(|| a.name.cmp(&b.name));
        self.found.queues.sort_by(first);
        self.found
    }

    fn queues(&mut self, top: &Top) -> Result<VecDeque<(String, (u64, u64))>> {
        let figures = match top.text("metrics", FACTS_BYTES_MAX) {
            Ok((text, _)) => facts::tickets(&text),
            Err(Fault::Absent | Fault::Closed) => BTreeMap::new(),
            Err(Fault::Odd(why)) => {
                self.found.no_figures = Some(why);
                BTreeMap::new()
            }
            Err(fault @ Fault::Away(_)) => return Err(fault),
        };
        let mut queues: VecDeque<_> = figures.into_iter().filter(|(name, _)| is_name(name)).collect();
        self.found.cut |= queues.len() > QUEUES_MAX;
        queues.truncate(QUEUES_MAX);
        Ok(queues)
    }

    fn look_at_node(&mut self, top: &Top, name: String) -> Result<()> {
        match top.text(&format!("nodes/{name}"), FACTS_BYTES_MAX) {
            Ok((text, _)) => self.found.nodes.push(facts::node(&name, &text)),
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(Fault::Odd(_)) => {
                self.found.unread += 1;
                self.found.nodes.push(Node {
                    name,
                    ..Node::default()
                });
            }
            // It went meanwhile.
            Err(Fault::Absent | Fault::Closed) => {}
        }
        Ok(())
    }

    fn look_at_queue(&mut self, top: &Top, name: String, (open, claimed): (u64, u64)) -> Result<()> {
        let waits = self.found.nodes.iter().flat_map(|node| &node.waiting);
        let mut queue = Queue {
            workers: waits
                .filter(|(queue, ..)| *queue == name)
                .map(|(_, count, _)| count)
                .sum(),
            name,
            open,
            claimed,
            ..Queue::default()
        };
        if open > 0 {
            match oldest(top, &mut queue, Instant::now() + QUEUE_TIME) {
                Ok(()) => {}
                Err(Fault::Away(why)) => return Err(Fault::Away(why)),
                Err(_) => self.found.unread += 1,
            }
        }
        self.found.queues.push(queue);
        Ok(())
    }
}

/// Finds what the oldest ticket of a queue waits for that nobody has claimed; of one that is slow it is found until a
/// time, or not.
fn oldest(top: &Top, queue: &mut Queue, until: Instant) -> Result<()> {
    let folder = format!("tickets/{}", queue.name);
    let claimed = usize::try_from(queue.claimed).unwrap_or(LOOKED_MAX);
    let most = (claimed.saturating_add(LOOKED_MIN)).min(LOOKED_MAX);
    let ids = match top.names(&folder, most) {
        Ok((ids, _)) => ids,
        Err(fault @ (Fault::Away(_) | Fault::Odd(_))) => return Err(fault),
        Err(fault) => {
            queue.closed = fault == Fault::Closed;
            return Ok(());
        }
    };
    for id in ids {
        if Instant::now() >= until {
            return Err(Fault::Odd(format!("{folder}: it takes too long")));
        }
        match top.changed(&format!("{folder}/{id}"), "claim") {
            Err(Fault::Absent) => {}
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Ok(_) | Err(Fault::Closed | Fault::Odd(_)) => continue,
        }
        // It may be gone by now.
        let Ok(since) = top.changed(&folder, &id) else { continue };
        queue.since = since;
        queue.why = why(top, &folder, &id)?;
        queue.oldest = id;
        return Ok(());
    }
    Ok(())
}

/// What a ticket waits for: its build says so; of one that stands alone, what a worker must have.
fn why(top: &Top, folder: &str, id: &str) -> Result<String> {
    let said = match facts::build_of(id) {
        Some((key, None)) => top.small(&format!("{}/why", key.folder()))?,
        Some((key, Some(task))) => {
            let tasks = format!("{}/tasks", key.folder());
            let begin = format!("{task}-");
            let names = match top.names(&tasks, TASKS_MAX) {
                Ok((names, _)) => names,
                Err(Fault::Absent | Fault::Closed) => Vec::new(),
                Err(fault) => return Err(fault),
            };
            match names.iter().find(|name| name.starts_with(&begin)) {
                Some(name) => top.small(&format!("{tasks}/{name}/why"))?,
                None => String::new(),
            }
        }
        None => String::new(),
    };
    if let Some(line) = said.lines().next() {
        return Ok(line.to_owned());
    }
    let labels = top.small(&format!("{folder}/{id}/labels"))?;
    let labels: Vec<&str> = labels.split_whitespace().collect();
    Ok(match labels.is_empty() {
        true => String::new(),
        false => format!("needs labels {}", labels.join(" ")),
    })
}
