//! Copies what a list of patterns names, in one walk over the folder, without a shell and without links.
//!
//! A folder is read only if something in it may fit, and what fits is copied where it is met, once. Where
//! nothing that is in a folder can be decided otherwise, it is copied whole. A folder that `*` or `**` fitted
//! is taken without the names in it that begin with a dot, at any depth. A pattern for which there is nothing
//! may be a name itself, `a[1].txt`, as in `sh`: a second walk looks for these names.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::{Component, Path, PathBuf};
use std::thread;

use distcifs_patterns::{Part, Rule, Together, misplaced};
use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use crate::beneath::{self, DEPTH_MAX, Folder, is, shown, trouble};
use crate::copying::{Copying, Level, too_deep};
use crate::tree::{self, Trouble};

/// Stack of a walk, bytes for each level of folders; only what is used of it is memory.
const STACK_OF_LEVEL: usize = 32 << 10;

/// Characters of a pattern that a message shows.
const SHOWN_MAX: usize = 200;

/// A list of patterns, and which of them fitted something.
#[derive(Debug)]
pub struct Selection {
    rules: Vec<Rule>,
    /// Which fitted something; of those that exclude, which took something away.
    fitted: Vec<bool>,
    /// Links that a pattern itself fitted, and what they say.
    links: Vec<(PathBuf, PathBuf)>,
    /// Links that a pattern for folders would have fitted.
    no_folders: Vec<PathBuf>,
}

/// Most links that are looked at in the end, of each kind, and most that are told.
const LINKS_MAX: usize = 1000;
const TOLD_MAX: usize = 20;

/// What is decided by one pattern: by which, and whether it is taken.
type Decision = Option<(usize, bool)>;

/// What is decided of a place so far.
#[derive(Debug, Clone, Copy, Default)]
struct Decided {
    /// For whatever is there.
    all: Decision,
    /// For names without a dot in front alone, and what is below them: here nothing is excluded.
    plain: Decision,
}

impl Decided {
    /// For a place itself.
    fn here(self) -> Decision {
        self.all.max(self.plain)
    }

    fn add(&mut self, whole: bool, by: (usize, bool)) {
        let kind = if whole { &mut self.all } else { &mut self.plain };
        *kind = (*kind).max(Some(by));
    }

    /// The first pattern that takes, of those that count; none: beyond all.
    fn first(self) -> usize {
        let takers = [self.all, self.plain].into_iter().flatten().filter(|(_, taken)| *taken);
        takers.map(|(rule, _)| rule).min().unwrap_or(usize::MAX)
    }

    /// For a name in a folder of which this is decided.
    fn below(self, name: &OsStr) -> Self {
        match name.as_bytes() {
            [b'.', ..] => Decided { plain: None, ..self },
            _ => self,
        }
    }
}

/// How far a pattern has come: which, which of its ways, and the part that is next.
type State = (usize, usize, usize);

/// A folder that is walked through.
struct Here<'a> {
    from: &'a Folder,
    way: &'a Path,
    states: Vec<State>,
    decided: Decided,
    depth: usize,
}

/// Where a folder's copies come to: made when there is the first.
enum Target<'a> {
    Made(&'a Folder),
    Later(Option<Folder>),
}

impl Selection {
    /// Reads the patterns.
    ///
    /// # Errors
    /// `Refused` with the one that is wrong.
    pub fn new(patterns: &[String]) -> tree::Result<Self> {
        if let Some(why) = misplaced(patterns.iter().map(String::as_str)) {
            return Err(refused(&patterns[0], why));
        }
        let mut together = Together::default();
        let rules: tree::Result<Vec<Rule>> = patterns
            .iter()
            .map(|text| together.parse(text).map_err(|why| refused(text, &why)))
            .collect();
        let rules = rules?;
        Ok(Selection {
            fitted: vec![false; rules.len()],
            rules,
            links: Vec::new(),
            no_folders: Vec::new(),
        })
    }

    /// The patterns that fitted nothing, those that exclude apart.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.rules.iter().zip(&self.fitted);
        missed
            .filter(|(rule, fitted)| !rule.excludes && !**fitted)
            .map(|(rule, _)| format!("'{}'", rule.text))
            .collect()
    }

    /// Whether something is excluded.
    pub fn excludes(&self) -> bool {
        self.rules.iter().any(|rule| rule.excludes)
    }

    /// What those who wrote the patterns may not expect, for people: exclusions that took nothing away, and
    /// links whose targets are not among the copies.
    pub fn odd(&self, copying: &Copying) -> Vec<String> {
        let idle = self.rules.iter().zip(&self.fitted);
        let idle = idle
            .filter(|(rule, fitted)| rule.excludes && !**fitted)
            .map(|(rule, _)| {
                let name = rule.text.trim_start_matches('!');
                let hint = if name.trim_end_matches('/').contains('/') {
                    String::new()
                } else {
                    format!(": it stands for the topmost folder alone, and !**/{name} for any depth")
                };
                format!("the pattern '{}' excludes nothing{hint}", rule.text)
            });
        let links = self
            .links
            .iter()
            .filter(|(path, target)| !is_copied(copying, path, target));
        let links = links.map(|(path, target)| {
            format!(
                "'{}' is a link, and what it leads to, '{}', is not among the copies",
                path.display(),
                target.display()
            )
        });
        let no_folders = self.no_folders.iter();
        let no_folders = no_folders.map(|path| {
            format!(
                "'{}' is a link, and a pattern that ends with / takes folders only",
                path.display()
            )
        });
        no_folders.chain(links).chain(idle).take(TOLD_MAX).collect()
    }

    /// Copies from this folder what the patterns name.
    ///
    /// # Errors
    /// `Refused` with the place, if something can't be read or made, or a pattern leads through a link.
    pub fn copy(&mut self, from: &Folder, copying: &mut Copying) -> tree::Result<()> {
        // A walk calls itself for each level.
        let stack = STACK_OF_LEVEL * (DEPTH_MAX + 1);
        thread::scope(|scope| {
            let walk = thread::Builder::new().stack_size(stack);
            let walk = walk.spawn_scoped(scope, || self.walks(from, copying));
            let walk = walk.map_err(|error| Trouble::from_io("can't begin", &error))?;
            walk.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn walks(&mut self, from: &Folder, copying: &mut Copying) -> tree::Result<()> {
        self.walk(from, copying, None)?;
        let names: Vec<Option<Rule>> = self
            .rules
            .iter()
            .zip(&self.fitted)
            .map(|(rule, fitted)| rule.as_name().filter(|_| !rule.excludes && !fitted))
            .collect();
        if names.iter().all(Option::is_none) {
            return Ok(());
        }
        let only: Vec<bool> = names.iter().map(Option::is_some).collect();
        for (rule, name) in self.rules.iter_mut().zip(names) {
            if let Some(name) = name {
                *rule = name;
            }
        }
        self.walk(from, copying, Some(&only))
    }

    /// Walks once; with `only`, copies nothing but what one of these decides.
    fn walk(&mut self, from: &Folder, copying: &mut Copying, only: Option<&[bool]>) -> tree::Result<()> {
        let mut states = Vec::new();
        let mut decided = Decided::default();
        for (rule, found) in self.rules.iter().enumerate() {
            for (way, is) in found.ways.iter().enumerate() {
                if is.parts.is_empty() {
                    decided.all = Some((rule, !found.excludes));
                    self.fitted[rule] = true;
                } else {
                    states.push((rule, way, 0));
                }
            }
        }
        let here = Here {
            from,
            way: Path::new(""),
            states: self.spread(states),
            decided,
            depth: 0,
        };
        let to = copying.target().again();
        let to = to.map_err(|e| Trouble::from_io("can't begin", &e))?;
        let mut walk = Walk {
            selection: self,
            copying,
            only,
        };
        if let Some((_, taken)) = decided.here()
            && !taken
            && !walk.goes_on(&here.states, here.decided)
        {
            return Ok(());
        }
        walk.folder(&here, None, &mut Target::Made(&to))?;
        if copying.copied == 0 {
            // A folder that is empty has nothing for a pattern without a name.
            for (rule, fitted) in self.rules.iter().zip(&mut self.fitted) {
                *fitted &= rule.ways.iter().all(|way| !way.parts.is_empty());
            }
        }
        Ok(())
    }

    /// `**` may stand for no folder at all.
    fn spread(&self, mut states: Vec<State>) -> Vec<State> {
        let mut at = 0;
        while let Some(&(rule, way, part)) = states.get(at) {
            let parts = &self.rules[rule].ways[way].parts;
            if parts.get(part) == Some(&Part::Any) && part + 1 < parts.len() {
                states.push((rule, way, part + 1));
            }
            at += 1;
        }
        states.sort_unstable();
        states.dedup();
        states
    }

    fn part(&self, (rule, way, part): State) -> &Part {
        &self.rules[rule].ways[way].parts[part]
    }
}

fn refused(text: &str, why: &str) -> Trouble {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    Trouble::Refused(format!("the pattern '{shown}' {why}"))
}

/// One walk.
struct Walk<'a> {
    selection: &'a mut Selection,
    copying: &'a mut Copying,
    only: Option<&'a [bool]>,
}

impl Walk<'_> {
    /// Goes through a folder, whose entries may be open already.
    fn folder(&mut self, here: &Here<'_>, entries: Option<&mut Dir>, to: &mut Target<'_>) -> tree::Result<()> {
        if here.depth > DEPTH_MAX {
            return Err(too_deep(here.way));
        }
        let takes = here.decided.here().is_some_and(|(_, taken)| taken);
        let names: Option<BTreeSet<OsString>> = here
            .states
            .iter()
            .map(|state| match self.selection.part(*state) {
                Part::Name(name) => Some(OsString::from(name)),
                _ => None,
            })
            .collect();
        if let Some(names) = names.filter(|_| !takes) {
            for name in names {
                match here.from.stat(&name) {
                    Ok(stat) => self.name(here, &name, FileType::from_raw_mode(stat.st_mode), to)?,
                    Err(error) if is_nothing(&error) => {}
                    Err(error) => return Err(trouble(&at(here.way, &name), &error)),
                }
            }
            return Ok(());
        }
        let cant = |error| trouble(&format!("can't read the folder '{}'", or_dot(here.way)), &error);
        let mut own;
        let entries = if let Some(entries) = entries {
            entries
        } else {
            own = here.from.entries().map_err(cant)?;
            &mut own
        };
        while let Some((name, kind)) = beneath::next_name(entries).map_err(cant)? {
            let kind = match kind {
                FileType::Unknown => match here.from.stat(&name) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) if is_nothing(&error) => continue,
                    Err(error) => return Err(trouble(&at(here.way, &name), &error)),
                },
                known => known,
            };
            self.name(here, &name, kind, to)?;
        }
        Ok(())
    }

    /// Decides about one name, and does it.
    fn name(&mut self, here: &Here<'_>, name: &OsStr, kind: FileType, to: &mut Target<'_>) -> tree::Result<()> {
        let is_folder = kind == FileType::Directory;
        let above = here.decided.below(name);
        let (mut decided, mut below, mut led) = (above, Vec::new(), false);
        let (mut first, mut excluding) = (above.first(), Vec::new());
        for state in &here.states {
            let Selection {
                rules,
                fitted,
                no_folders,
                ..
            } = &mut *self.selection;
            let (number, way, at) = *state;
            let (rule, of) = (&rules[number], &rules[number].ways[way]);
            let part = &of.parts[at];
            if !part.fits(name.as_bytes(), rule.excludes) {
                continue;
            }
            let last = at + 1 == of.parts.len();
            if last && (is_folder || !of.folders_only) {
                decided.add(rule.excludes || part.takes_whole(), (number, !rule.excludes));
                if rule.excludes {
                    excluding.push(number);
                } else {
                    fitted[number] = true;
                    first = first.min(number);
                }
            } else if last && kind == FileType::Symlink && part.takes_whole() && !rule.excludes {
                no_folders.push(here.way.join(name));
                no_folders.truncate(LINKS_MAX);
            }
            if *part == Part::Any {
                below.push((number, way, at));
            } else if !last {
                led |= matches!(part, Part::Name(_)) && !rule.excludes && !of.parts[..at].contains(&Part::Any);
                below.push((number, way, at + 1));
            }
        }
        if kind == FileType::Symlink && led {
            // Told as a link to a folder is; one to nothing or to a file is no way either.
            let error = Errno::LOOP.into();
            return Err(trouble(&at(here.way, name), &error));
        }
        if is_folder {
            // What of it they would take is not looked for.
            let takers = below.iter().map(|(number, _, _)| *number);
            first = takers
                .filter(|number| !self.selection.rules[*number].excludes)
                .fold(first, usize::min);
        }
        for number in excluding {
            self.selection.fitted[number] |= first < number;
        }
        let below = self.selection.spread(below);
        let (taken, taken_whole) = (self.takes(decided.here()), self.takes(decided.all));
        if is_folder && (taken != taken_whole || self.goes_on(&below, decided)) {
            return self.enter(here, name, (below, decided), to);
        }
        if !taken {
            return Ok(());
        }
        let path = here.way.join(name);
        let to = self.target(here, to)?;
        if kind == FileType::Symlink && decided.here() != above.here() && self.selection.links.len() < LINKS_MAX {
            let target = here.from.target(name).unwrap_or_default();
            self.selection.links.push((path.clone(), PathBuf::from(target)));
        }
        self.copying.copy(here.from, name, to, &path)
    }

    fn takes(&self, decided: Decision) -> bool {
        decided.is_some_and(|(rule, taken)| taken && self.only.is_none_or(|only| only[rule]))
    }

    /// Whether something in a folder can be decided otherwise than the folder, or be the first that fits
    /// a pattern.
    fn goes_on(&self, below: &[State], decided: Decided) -> bool {
        [decided.all, decided.here()].into_iter().any(|decided| {
            let taken = decided.is_some_and(|(_, taken)| taken);
            below.iter().any(|(number, _, _)| {
                let later = decided.is_none_or(|(by, _)| *number > by);
                match (self.selection.rules[*number].excludes, taken) {
                    (true, _) => later && taken,
                    (false, true) => !self.selection.fitted[*number],
                    (false, false) => later,
                }
            })
        })
    }

    fn enter(
        &mut self,
        here: &Here<'_>,
        name: &OsStr,
        (states, decided): (Vec<State>, Decided),
        to: &mut Target<'_>,
    ) -> tree::Result<()> {
        let way = here.way.join(name);
        let inner = |from| Here {
            from,
            way: &way,
            states,
            decided,
            depth: here.depth + 1,
        };
        if self.takes(decided.here()) {
            let above = self.target(here, to)?;
            let mut level: Level = self.copying.begin(here.from, name, above, &way)?;
            let Level { from, entries, to, .. } = &mut level;
            self.folder(&inner(from), Some(entries), &mut Target::Made(to))?;
            return self.copying.end(&level, &way);
        }
        match here.from.enter(name) {
            Ok(from) => self.folder(&inner(&from), None, &mut Target::Later(None)),
            // It went, or became something else, while this was looked at.
            Err(error) if is_nothing(&error) || is(&error, Errno::LOOP) => Ok(()),
            Err(error) => Err(trouble(&at(here.way, name), &error)),
        }
    }

    /// The folder for copies of what is here.
    fn target<'t>(&self, here: &Here<'_>, to: &'t mut Target<'_>) -> tree::Result<&'t Folder> {
        match to {
            Target::Made(to) => Ok(to),
            Target::Later(Some(to)) => Ok(to),
            Target::Later(later) => {
                let made = self.copying.target().make(here.way);
                let cant = |e| trouble(&format!("can't make the folder '{}'", shown(here.way)), &e);
                Ok(later.insert(made.map_err(cant)?))
            }
        }
    }
}

/// Whether what a link leads to is where copies come to.
fn is_copied(copying: &Copying, link: &Path, target: &Path) -> bool {
    let mut place = link.parent().map(Path::to_owned).unwrap_or_default();
    for part in target.components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::CurDir => {}
            Component::ParentDir if place.pop() => {}
            _ => return false,
        }
    }
    let Some(name) = place.file_name() else {
        return true;
    };
    let folder = copying.target().enter_far(place.parent().unwrap_or(Path::new("")));
    match folder.and_then(|folder| folder.stat(name)) {
        Ok(_) => true,
        // By way of another link: that one is told if it leads nowhere.
        Err(error) => is(&error, Errno::LOOP),
    }
}

/// Whether there is nothing of that name.
fn is_nothing(error: &std::io::Error) -> bool {
    is(error, Errno::NOENT) || is(error, Errno::NOTDIR) || is(error, Errno::NAMETOOLONG)
}

fn at(way: &Path, name: &OsStr) -> String {
    format!("'{}'", shown(&way.join(name)))
}

fn or_dot(way: &Path) -> String {
    if way.as_os_str().is_empty() {
        return ".".to_owned();
    }
    shown(way)
}
