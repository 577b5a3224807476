//! The texts of tasks that were added to a build.

use std::sync::Arc;

use super::Upkeep;
use super::roots::{Need, Roots};
use crate::repository::Result;
use crate::repository::core::bounded;
use crate::repository::model::plan::{Addition, PlanEntry};
use crate::storage::{Digest, Object, contents};

impl Upkeep {
    /// Takes in what the plan of a build refers to: its list, and the texts in it.
    pub(super) async fn plan(&self, roots: &mut Roots, whose: &Arc<str>, entry: Option<&PlanEntry>) -> Result<()> {
        let Some(entry) = entry else { return Ok(()) };
        let need = |what, task| Need {
            whose: whose.clone(),
            what,
            task,
        };
        roots.body(&entry.digest, need("plan.json", None));
        let Some(digest) = Digest::parse(&entry.digest) else {
            return Ok(());
        };
        let object = Object::Chunk(digest);
        let list = self.contents.read(&object, 0, contents::VALUE_BYTES_MAX);
        // One that is missing is told with all others.
        let Some(list) = bounded(&object.to_string(), list).await? else {
            return Ok(());
        };
        let what = format!("plan.json of {whose}");
        for text in roots.read::<Vec<Addition>>(&what, whose, &list).unwrap_or_default() {
            roots.body(&text.text, need("added tasks", Some(text.by)));
        }
        Ok(())
    }
}
