//! Lines of builds that have no record.

use super::roots::Roots;
use super::{Fault, Upkeep};
use crate::repository::Result;
use crate::repository::core::bounded;
use crate::repository::model::keys::{LineKey, RecordKey};

impl Upkeep {
    /// Tells of a build that is lost, unless somebody removed its record: on a cluster that leaves a revision. Who removed
    /// it and died before he came as far as to the line has lost nothing.
    pub(super) async fn without_record(&self, roots: &mut Roots, whose: &str, uid: &str, n: u64) -> Result<()> {
        let object = RecordKey::Build(uid, n).object();
        let query = self.contents.query(&object, &LineKey::Record.key(), "", 1);
        let page = bounded(&object.to_string(), query).await?;
        if page.entries.is_empty() && page.revision > 0 {
            return Ok(());
        }
        let what = format!("record build.{uid}.{n}: missing");
        let remedy = "restore the source from a backup, or let distcifs gc forget the build";
        roots.lost.push(Fault::new(what, format!("{whose}/builds/{n}"), remedy));
        Ok(())
    }
}
