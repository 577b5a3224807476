//! Places of groups that nobody holds.

use super::Upkeep;
use super::roots::{Orphan, Roots};
use crate::repository::Result;
use crate::repository::core::bounded;
use crate::repository::model::group::{GroupEntry, Holder};
use crate::repository::model::keys::{GROUPS, Key};
use crate::repository::model::ticket::{Ticket, TicketState};

impl Upkeep {
    /// Takes in the groups: a place is made, and goes, with what its ticket says of it.
    pub(super) async fn groups(&self, roots: &mut Roots) -> Result<()> {
        self.progress.begin("reading groups");
        for digest in bounded(GROUPS, self.coordination.children(GROUPS)).await? {
            self.progress.step();
            let folder = Key::Group(&digest).path();
            // One that nobody uses goes by itself, an hour after the last who did.
            let Some(group) = bounded(&folder, self.coordination.get(&folder)).await? else {
                continue;
            };
            let affected = format!("what waits for a place in {folder}");
            roots.read::<GroupEntry>(&format!("entry {folder}"), &affected, &group.data);
            for place in bounded(&folder, self.coordination.children(&folder)).await? {
                let path = format!("{folder}/{place}");
                let Some(entry) = bounded(&path, self.coordination.get(&path)).await? else {
                    continue;
                };
                let holder = serde_json::from_slice::<Holder>(&entry.data).ok();
                let held = match holder {
                    Some(holder) => self.is_place_of(&holder, &digest, &place).await?,
                    None => false,
                };
                if !held {
                    roots.orphans.insert(Orphan::Entry(path, entry.created));
                }
            }
        }
        Ok(())
    }

    /// Whether the ticket that a place is held for knows of it.
    async fn is_place_of(&self, holder: &Holder, digest: &str, place: &str) -> Result<bool> {
        let path = holder.ticket_path();
        let entry = bounded(&path, self.coordination.get(&path)).await?;
        let ticket = entry.and_then(|entry| serde_json::from_slice::<Ticket>(&entry.data).ok());
        Ok(ticket.is_some_and(|ticket| {
            let group = ticket.group.as_ref().is_some_and(|group| group.digest == digest);
            let slot = ticket.slot.is_some_and(|slot| slot.to_string() == place);
            group && slot && ticket.state != TicketState::Finished
        }))
    }
}
