//! Parameters that a claimant records.

use super::{Claim, Claims, RECORDED_BYTES_MAX, RECORDED_MAX};
use crate::repository::config::UPSTREAM_PARAMETERS;
use crate::repository::core::lock;
use crate::repository::model::build::{Live, live_path};
use crate::repository::model::given;
use crate::repository::model::json::from_json;
use crate::repository::{Error, Result};

impl Claims {
    /// Refuses to record a parameter that the trigger of the claim's build gave.
    pub(crate) async fn may_record(&self, claim: &Claim, name: &str) -> Result<()> {
        // Which build triggered this one is refused by another word.
        let part = claim.ticket.part.as_ref();
        let Some(part) = part.filter(|_| !UPSTREAM_PARAMETERS.contains(&name)) else {
            return Ok(());
        };
        let path = live_path(&part.uid, part.build);
        let Some(entry) = self.store.get(&path).await? else {
            return Ok(());
        };
        let live: Live = from_json(&path, &entry.data)?;
        if live.given.is_empty() {
            return Ok(());
        }
        let params = self.builds.live_params(&live).await?;
        let at = params.iter().position(|(known, _)| known == name);
        if at.is_none_or(|at| !given::has(&live.given, at)) {
            return Ok(());
        }
        Err(Error::Exists(format!(
            "{}/params/{name}: the trigger gave it, and what it gave stays",
            claim.key
        )))
    }
}

impl Claim {
    /// Records a parameter of the build; it takes effect with the result.
    pub fn record(&self, name: &str, value: &str) -> Result<()> {
        self.check()?;
        if UPSTREAM_PARAMETERS.contains(&name) {
            return Err(Error::Access(format!(
                "{}/params/{name}: which build triggered this one is not a task's to say",
                self.key
            )));
        }
        if value.len() > RECORDED_BYTES_MAX {
            return Err(Error::TooBig(format!(
                "{}/params/{name}: over {RECORDED_BYTES_MAX} bytes",
                self.key
            )));
        }
        let mut recorded = lock(&self.recorded);
        if let Some((_, old)) = recorded.iter_mut().find(|(known, _)| known == name) {
            value.clone_into(old);
        } else if recorded.len() >= RECORDED_MAX {
            return Err(Error::TooBig(format!(
                "{}: over {RECORDED_MAX} recorded parameters",
                self.key
            )));
        } else {
            recorded.push((name.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    /// Takes back what was recorded under a name; whether there was something.
    pub fn take_back(&self, name: &str) -> Result<bool> {
        self.check()?;
        let mut recorded = lock(&self.recorded);
        let before = recorded.len();
        recorded.retain(|(known, _)| known != name);
        Ok(recorded.len() < before)
    }

    /// What was recorded so far.
    pub fn recorded(&self) -> Vec<(String, String)> {
        lock(&self.recorded).clone()
    }
}
