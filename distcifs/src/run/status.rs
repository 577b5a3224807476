//! `distcifs status`.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokio::runtime::Builder;

use super::cluster::is_cluster;
use super::mounts;
use super::options::MountOptions;
use super::progress::Shown;
use super::stores::Stores;
use super::{Failure, Outcome};
use crate::cli;
use crate::repository::format;
use crate::repository::maintain::Upkeep;

/// Prints `key value` lines: those of a mount's own file, or of a cluster's two stores.
pub(super) fn status(arguments: &cli::Status) -> Outcome {
    let place = match &arguments.place {
        Some(place) => place.clone(),
        None => at_hand()?,
    };
    let mut text = if is_cluster(&place) {
        cluster(&place, arguments)?
    } else {
        let file = place.join("status");
        let why = |error| format!("{}: {error}; is {} a mount?", file.display(), place.display());
        std::fs::read_to_string(&file).map_err(|error| Failure::Refused(why(error)))?
    };
    if arguments.json {
        text = format!("{:#}\n", as_json(&text));
    }
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::Refused(format!("standard output: {error}")))
}

/// The mount that the working directory is in.
pub(super) fn at_hand() -> Result<PathBuf, Failure> {
    let refused = |why: String| Failure::Refused(format!("{why}; name a mount point or a cluster's address"));
    let here = std::env::current_dir().map_err(|error| refused(format!("the folder at hand: {error}")))?;
    let is_mount = |place: &&Path| matches!(mounts::find(place), Ok(Some(entry)) if entry.is_ours());
    let found = here.ancestors().find(is_mount);
    found
        .map(Path::to_owned)
        .ok_or_else(|| refused(format!("{} is in no mount of distcifs", here.display())))
}

/// What is text though it may look like a number, as the name of a node may.
const TEXTS: [&str; 8] = [
    "store",
    "coordinator",
    "session",
    "node",
    "version",
    "since",
    "room",
    "drained",
];

/// `key value` lines as an object; a key that stands several times has a list. What counts is a number.
pub(super) fn as_json(text: &str) -> Value {
    let mut members = Map::new();
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let number = value.parse::<u64>().ok().filter(|_| !TEXTS.contains(&key));
        let value = number.map_or_else(|| Value::from(value), Value::from);
        match members.get_mut(key) {
            None => drop(members.insert(key.to_owned(), value)),
            Some(Value::Array(list)) => list.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    Value::Object(members)
}

/// Asks both stores, without a mount.
fn cluster(source: &Path, arguments: &cli::Status) -> Result<String, Failure> {
    let options = MountOptions::parse(source.to_owned(), PathBuf::from("/"), &arguments.options);
    let options = options.map_err(Failure::Usage)?;
    options.cluster.check(source).map_err(Failure::Usage)?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("can't start threads: {error}")))?;
    let _shown = Shown::new(format!("asking {}", source.display()));
    let stores = Stores::open(source, &options.cluster, None, runtime.handle()).map_err(Failure::Refused)?;
    let upkeep = Upkeep::new(stores.coordination.clone(), stores.contents.clone());
    let lines = runtime.block_on(async {
        format::check(&stores.coordination, &stores.contents).await?;
        upkeep.figures().await
    });
    let lines = lines.map_err(|error| Failure::Refused(format!("{}: {error}", source.display())));
    let head = format!("store {}\ncoordinator {}\n", stores.store, stores.coordinator);
    stores.close(runtime.handle());
    let lines = lines?.into_iter().map(|(key, value)| format!("{key} {value}\n"));
    Ok(head + &lines.collect::<String>())
}
