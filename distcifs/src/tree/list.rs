//! Listings of generated folders.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::handles::OpenKind;
use super::node::{Area, BuildFile, JobFile, JobRef, Node, TaskFile, TicketFile, TicketRef, Top};
use super::texts::hold;
use super::{Caller, DirEntry, Error, Ino, Kind, Result, Tree};

/// Jobs read at once while they are listed.
const PAGE: usize = 1000;

/// What a name in a listing takes beside its letters, bytes.
const NAME_BYTES: usize = 32;

/// Shown by plain listings for nodes that get their number when they are looked up.
const NUMBERED_LATER: Ino = Ino(u32::MAX as u64);

impl Tree {
    /// Entries of a generated folder after an offset: `.` is 1, `..` is 2, the rest follow.
    pub(crate) async fn list(
        &self,
        caller: Caller,
        node: &Node,
        handle: u64,
        offset: u64,
        limit: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for (at, name, ino) in [(1, ".", self.numbers.ino(node)), (2, "..", self.parent_of(node))] {
            if offset < at {
                entries.push(DirEntry {
                    name: name.into(),
                    ino,
                    kind: Kind::Directory,
                    offset: at,
                    found: None,
                });
            }
        }
        let skip = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        let room = limit.saturating_sub(entries.len());
        if let Node::Published(id) = node {
            entries.extend(self.list_published(*id, skip, room, plus).await?);
            return Ok(entries);
        }
        let names = self.names_of(node, handle, offset == 0).await?;
        for (at, (name, kind)) in names.iter().enumerate().skip(skip) {
            if entries.len() >= limit {
                break;
            }
            let mut entry = DirEntry {
                name: OsString::from(name),
                ino: NUMBERED_LATER,
                kind: *kind,
                offset: at as u64 + 3,
                found: None,
            };
            if plus {
                match self.find_and_look(caller, node, OsStr::new(name)).await {
                    Ok(found) => {
                        entry.ino = found.attributes.attr.ino;
                        entry.kind = found.attributes.attr.kind;
                        entry.found = Some(found);
                    }
                    // What went away since the folder was opened is left out.
                    Err(Error::NotFound(_) | Error::Stale(_)) => continue,
                    Err(error) if entries.is_empty() => return Err(error),
                    // What stands is told first, the error with the next request.
                    Err(_) => break,
                }
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn parent_of(&self, node: &Node) -> Ino {
        match node {
            Node::Published(id) => self.published.parent(*id),
            node => self.parent(node),
        }
    }

    /// The names of a folder as they were when its listing began; `again` begins it anew.
    async fn names_of(&self, node: &Node, handle: u64, again: bool) -> Result<Arc<Vec<(String, Kind)>>> {
        let open = self.handles.get(handle)?;
        let OpenKind::Folder(kept) = &open.kind else {
            return Err(Error::NotDirectory("an open file".into()));
        };
        if let Some(names) = crate::repository::core::lock(kept).clone().filter(|_| !again) {
            return Ok(names);
        }
        let names = Arc::new(match node {
            Node::Top(Top::Trash) => self.names_in_trash(open.caller.uid).await?,
            node => self.read_names(node).await?,
        });
        let name = |(name, _): &(String, Kind)| NAME_BYTES + name.len();
        hold(&open.memory, names.iter().map(name).sum())?;
        *crate::repository::core::lock(kept) = Some(names.clone());
        Ok(names)
    }

    async fn read_names(&self, node: &Node) -> Result<Vec<(String, Kind)>> {
        let folders = |names: Vec<String>| names.into_iter().map(|name| (name, Kind::Directory)).collect();
        Ok(match node {
            Node::Root => Top::ALL
                .iter()
                .filter(|top| !matches!(top, Top::Events | Top::Drain | Top::Trash))
                .map(|top| {
                    let folder = matches!(top, Top::Jobs | Top::Tickets | Top::Nodes);
                    (top.name().to_owned(), if folder { Kind::Directory } else { Kind::File })
                })
                .collect(),
            Node::Top(Top::Jobs) => folders(self.job_names()),
            Node::Top(Top::Tickets) => folders(
                self.repository
                    .tickets
                    .queues()
                    .await?
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
            Node::Top(Top::Nodes) => files(self.repository.nodes.nodes().await?.iter().map(ToString::to_string)),
            Node::Job(job) => self.names_in_job(job),
            Node::JobFile(job, JobFile::Builds) => self.names_in_builds(job).await?,
            Node::Build(job, n) => self.names_in_build(job, *n).await?,
            Node::BuildFile(job, n, BuildFile::Params) => files(
                self.build(job, *n)
                    .await?
                    .all_params()
                    .into_iter()
                    .map(|(name, _)| name),
            ),
            Node::BuildFile(job, n, BuildFile::Tasks) => {
                let build = self.repository.builds.build_head(&self.job(job)?, *n).await?;
                folders((0..build.plan.count()).filter_map(|i| build.task_name(i)).collect())
            }
            Node::Task(..) => files(TaskFile::ALL.iter().map(|file| file.name().to_owned())),
            Node::Queue(queue) => folders(
                self.repository
                    .tickets
                    .ids(queue)
                    .await?
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
            Node::Ticket(ticket) => self.names_in_ticket(ticket).await?,
            Node::TicketFile(ticket, TicketFile::Params) => {
                files(self.ticket_params(ticket).await?.into_iter().map(|(name, _)| name))
            }
            Node::TicketFile(_, TicketFile::Jobs) => folders(self.job_names()),
            Node::TicketFile(ticket, TicketFile::Needs) => folders(self.needed_names(ticket).await?),
            Node::Seen(seen) => {
                self.may_list_seen(seen).await?;
                let mut names = Box::pin(self.read_names(&seen.node)).await?;
                // Scratch files are their editors' own.
                if let Node::Job(_) = &seen.node {
                    names.retain(|(name, _)| JobFile::parse(name).is_some());
                }
                names
            }
            _ => return Err(Error::NotDirectory("a file".into())),
        })
    }

    fn job_names(&self) -> Vec<String> {
        let mut names = Vec::with_capacity(self.repository.jobs.count());
        let mut page = self.repository.jobs.after(None, PAGE);
        while let Some(last) = page.last().map(|job| job.name.clone()) {
            names.extend(page.iter().map(|job| job.name.to_string()));
            page = self.repository.jobs.after(Some(&last), PAGE);
        }
        names
    }

    fn names_in_job(&self, job: &Arc<JobRef>) -> Vec<(String, Kind)> {
        let there = |file: &&JobFile| self.unless_absent(Node::JobFile(job.clone(), **file)).is_ok();
        let fixed = JobFile::ALL.iter().filter(there).map(|file| {
            let kind = if *file == JobFile::Builds {
                Kind::Directory
            } else {
                Kind::File
            };
            (file.name().to_owned(), kind)
        });
        let scratch = self
            .scratch
            .list(&job.uid)
            .into_iter()
            .map(|(name, _, kind)| (name, kind));
        fixed.chain(scratch).collect()
    }

    async fn names_in_builds(&self, job: &JobRef) -> Result<Vec<(String, Kind)>> {
        let now = self.job(job)?;
        let mut names = self.names_beside_builds(job).await?;
        let numbers = self.repository.builds.build_numbers(&now).await?;
        names.extend(numbers.into_iter().map(|n| (n.to_string(), Kind::Directory)));
        Ok(names)
    }

    async fn names_in_build(&self, job: &Arc<JobRef>, n: u64) -> Result<Vec<(String, Kind)>> {
        let held = self.was_held(job, n).await?;
        let fixed = BuildFile::ALL
            .iter()
            .filter(|file| **file != BuildFile::Wait && (held || **file != BuildFile::Approve))
            .filter(|file| self.unless_absent(Node::BuildFile(job.clone(), n, **file)).is_ok())
            .map(|file| {
                let folder = matches!(file, BuildFile::Params | BuildFile::Tasks);
                (
                    file.name().to_owned(),
                    if folder { Kind::Directory } else { Kind::File },
                )
            });
        Ok(fixed
            .chain(Area::ALL.iter().map(|area| (area.name().to_owned(), Kind::Directory)))
            .collect())
    }

    async fn names_in_ticket(&self, ticket: &TicketRef) -> Result<Vec<(String, Kind)>> {
        let posted = self.posted(ticket).await?;
        let claimed = self.is_claimed(ticket, &posted).await?;
        let part = posted.ticket.part.as_ref();
        let there = |file: &&TicketFile| match file {
            TicketFile::Wait | TicketFile::Jobs => false,
            TicketFile::Claim => claimed,
            TicketFile::Tasks | TicketFile::TasksError => self.has_tasks(ticket, **file),
            TicketFile::Build => part.is_some(),
            TicketFile::Needs => part.is_some_and(|part| part.task.is_some()),
            _ => true,
        };
        let mut names: Vec<(String, Kind)> = TicketFile::ALL
            .iter()
            .filter(there)
            .map(|file| {
                let kind = match file {
                    TicketFile::Params | TicketFile::Needs => Kind::Directory,
                    TicketFile::Build => Kind::Symlink,
                    _ => Kind::File,
                };
                (file.name().to_owned(), kind)
            })
            .collect();
        names.extend(Area::ALL.iter().map(|area| (area.name().to_owned(), Kind::Directory)));
        Ok(names)
    }
}

fn files(names: impl Iterator<Item = String>) -> Vec<(String, Kind)> {
    names.map(|name| (name, Kind::File)).collect()
}
