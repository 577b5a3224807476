//! Who on this mount wants to know of which objects.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::bounds::refused;
use super::names::check_object;
use super::{Notices, Object, Result};

/// Most objects listened to at once: 20 MB, and more than anybody has open.
const OBJECTS_MAX: usize = 1 << 16;

/// Objects below which nobody looks for those that are not listened to any more: one that never
/// changes would be kept for ever.
const SWEEP_MIN: usize = 64;

/// Listeners by the name of their object.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<Box<str>, watch::Sender<()>>,
    /// The number of objects at which to look for those that nobody listens to.
    sweep_at: usize,
}

impl Listeners {
    /// Listens to a record or console, be it there or not.
    ///
    /// # Errors
    /// `Refused` for another object, an odd name, or one object too many.
    pub(crate) fn listen(&self, object: &Object) -> Result<Notices> {
        check_object(object)?;
        let (Object::Record(name) | Object::Console(name)) = object else {
            return Err(refused(object.to_string(), "a blob never changes"));
        };
        let mut table = self.table();
        if table.by_name.len() >= table.sweep_at {
            table.by_name.retain(|_, sender| sender.receiver_count() > 0);
            table.sweep_at = (2 * table.by_name.len()).clamp(SWEEP_MIN, OBJECTS_MAX);
        }
        if table.by_name.len() >= OBJECTS_MAX && !table.by_name.contains_key(name.as_str()) {
            let why = format!("{OBJECTS_MAX} objects are listened to already");
            return Err(refused(name, why));
        }
        let sender = table.by_name.entry(name.as_str().into()).or_default();
        Ok(Notices::new(sender.subscribe()))
    }

    /// Tells whoever listens to an object that it may have changed.
    pub(crate) fn tell(&self, name: &str) {
        if let Some(sender) = self.table().by_name.get(name) {
            sender.send_replace(());
        }
    }

    /// Tells whoever listens to one of these that it may have changed.
    #[cfg_attr(
        not(feature = "ceph"),
        expect(dead_code, reason = "only a store that others write to needs it")
    )]
    pub(crate) fn tell_those(&self, these: impl Fn(&str) -> bool) {
        for (_, sender) in self.table().by_name.iter().filter(|(name, _)| these(name)) {
            sender.send_replace(());
        }
    }

    /// Calls back for each object that is listened to.
    #[cfg_attr(
        not(feature = "ceph"),
        expect(dead_code, reason = "only a store that others write to needs it")
    )]
    pub(crate) fn each(&self, mut visit: impl FnMut(&str)) {
        self.table().by_name.retain(|name, sender| {
            let listens = sender.receiver_count() > 0;
            if listens {
                visit(name);
            }
            listens
        });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
