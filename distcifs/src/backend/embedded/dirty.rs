//! Which files have bytes that a loss of power would take.

use std::collections::HashMap;
use std::sync::Mutex;

use super::lock;
use crate::storage::Object;

/// Most objects remembered one by one; past it the whole file system is made durable at the next
/// sync. About 6 MB when full of consoles.
const OBJECTS_MAX: usize = 32_768;

/// The objects written since they were last made durable.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    marks: Mutex<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    /// Whether the object's name is new in its folder as well.
    objects: HashMap<Object, bool>,
    overflow: bool,
}

/// What a sync has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// These objects, and whether their folders too.
    Objects(Vec<(Object, bool)>),
    /// The whole file system.
    All,
}

impl Dirty {
    /// Marks an object; `named`: its name is new in its folder.
    pub(super) fn mark(&self, object: &Object, named: bool) {
        let mut marks = lock(&self.marks);
        if let Some(known) = marks.objects.get_mut(object) {
            *known |= named;
        } else if marks.objects.len() < OBJECTS_MAX {
            marks.objects.insert(object.clone(), named);
        } else {
            marks.overflow = true;
        }
    }

    /// Forgets an object that was removed.
    pub(super) fn forget(&self, object: &Object) {
        lock(&self.marks).objects.remove(object);
    }

    /// Takes the marks off these objects, before they are made durable, and says which had one.
    /// Past `few` of them, all marks are taken.
    pub(super) fn take(&self, wanted: &[Object], few: usize) -> Todo {
        let mut marks = lock(&self.marks);
        let marked = wanted
            .iter()
            .filter(|object| marks.objects.contains_key(*object))
            .count();
        if marks.overflow || marked > few {
            *marks = Marks::default();
            return Todo::All;
        }
        let take = |object: &Object| Some((object.clone(), marks.objects.remove(object)?));
        Todo::Objects(wanted.iter().filter_map(take).collect())
    }

    /// Puts the marks back after a sync that failed.
    pub(super) fn give_back(&self, todo: Todo) {
        match todo {
            Todo::All => lock(&self.marks).overflow = true,
            Todo::Objects(objects) => {
                for (object, named) in objects {
                    self.mark(&object, named);
                }
            }
        }
    }
}
