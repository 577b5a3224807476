//! Parameters that a claimant records.

use super::{Claim, RECORDED_BYTES_MAX, RECORDED_MAX};
use crate::repository::config::UPSTREAM_PARAMETERS;
use crate::repository::core::lock;
use crate::repository::{Error, Result};

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
