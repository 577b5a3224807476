//! What the screen of `top` is about: which part of it has the keys, which build is chosen, what is asked. Keys change it;
//! it draws nothing.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::act::{Deed, Doing, Order, commit};
use super::facts::{Key, Row};
use super::follow::Follower;
use super::read::{Shared, Told, View};
use super::sight::{Asked, Sight};

/// Columns by which a long line of a console is moved.
const SIDEWAYS: usize = 16;

/// Past this the tree is said not to answer.
const SILENT_TIME: Duration = Duration::from_secs(2);

/// The parts of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Builds,
    Queues,
    Nodes,
}

/// What has the keys.
pub(super) enum Mode {
    /// The parts of the screen.
    Board,
    /// The list of keys.
    Help,
    /// A question, what a yes does, and whether it has stood on the screen: until then no key answers it.
    Confirm { question: String, order: Order, seen: bool },
    /// A console.
    Console(Console),
}

/// A console on the screen.
pub(super) struct Console {
    pub(super) follower: Follower,
    /// Lines below the last that is shown; 0: it follows.
    pub(super) back: usize,
    /// Lines that had come when it was drawn last.
    pub(super) came: usize,
    /// Characters that are left out on the left.
    pub(super) right: usize,
}

/// Why the screen is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// For good.
    Quit,
    /// Until the shell lets it go on.
    Stop,
}

/// The screen's state.
pub(super) struct App {
    sight: Sight,
    shared: Arc<Shared>,
    tell: SyncSender<Told>,
    asked: Asked,
    doing: Option<Doing>,
    pub(super) view: Arc<View>,
    pub(super) pane: Pane,
    pub(super) chosen: Option<Key>,
    /// Where that is among the rows.
    pub(super) at: usize,
    /// The first row of builds on the screen, of queues, of nodes; and how many builds have room.
    pub(super) first: usize,
    pub(super) queue: usize,
    pub(super) node: usize,
    pub(super) room: usize,
    pub(super) mode: Mode,
    /// What became of the last deed, and whether it was done.
    pub(super) said: Option<(bool, String)>,
}

impl App {
    /// Of a tree that a reader reads, which waits for `asked`.
    pub(super) fn new(sight: Sight, shared: Arc<Shared>, tell: SyncSender<Told>, asked: Asked) -> Self {
        App {
            sight,
            view: shared.view(),
            shared,
            tell,
            asked,
            doing: None,
            pane: Pane::Builds,
            chosen: None,
            at: 0,
            first: 0,
            queue: 0,
            node: 0,
            room: 1,
            mode: Mode::Board,
            said: None,
        }
    }

    /// Takes what is known now, and says which builds are looked at.
    pub(super) fn refresh(&mut self) {
        self.view = self.shared.view();
        if let Some(answer) = self.doing.as_ref().and_then(Doing::answer) {
            self.doing = None;
            self.said = Some(match answer {
                Ok(text) => (true, text),
                Err(text) => (false, text),
            });
        }
        let rows = &self.view.rows;
        let found = self
            .chosen
            .as_ref()
            .and_then(|key| rows.iter().position(|row| row.key == *key));
        // Of a build that has left the list the place stays, and nothing is chosen by that: a key that comes just then
        // must not be for another build.
        if let Some(at) = found {
            self.at = at;
        } else if self.chosen.is_some() && !matches!(self.mode, Mode::Confirm { .. }) {
            self.chosen = None;
        }
        self.at = self.at.min(rows.len().saturating_sub(1));
        self.first = self.first.min(self.at).max((self.at + 1).saturating_sub(self.room));
        let shown = rows.iter().skip(self.first).take(self.room).map(|row| row.key.clone());
        if self.shared.want(shown.collect()) {
            // A reader that is busy looks at it by itself, later.
            self.tell.try_send(Told::Look).ok();
        }
    }

    /// How long the tree has not answered, if that is long.
    pub(super) fn silent(&self) -> Option<Duration> {
        let console = match &self.mode {
            Mode::Console(console) => console.follower.asked.waits(),
            _ => Duration::ZERO,
        };
        Some(self.asked.waits().max(console)).filter(|time| *time >= SILENT_TIME)
    }

    /// What is being done just now.
    pub(super) fn doing(&self) -> Option<&str> {
        self.doing.as_ref().map(Doing::what)
    }

    /// Whether something is asked that has not stood on the screen yet.
    pub(super) fn asks_anew(&self) -> bool {
        matches!(self.mode, Mode::Confirm { seen: false, .. })
    }

    /// The row that is chosen.
    pub(super) fn row(&self) -> Option<&Row> {
        let key = self.chosen.as_ref()?;
        self.view.rows.iter().find(|row| row.key == *key)
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Leave> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd' | '\\') => Some(Leave::Quit),
                KeyCode::Char('z') => Some(Leave::Stop),
                _ => None,
            };
        }
        match &mut self.mode {
            Mode::Board => return self.press_on_board(key.code),
            Mode::Help => self.mode = Mode::Board,
            // It was typed before there was a question, so it is meant for something else.
            Mode::Confirm { seen: false, .. } => {}
            Mode::Confirm { order, .. } => {
                let order = order.clone();
                self.mode = Mode::Board;
                match key.code {
                    KeyCode::Char('y' | 'Y') => self.begin(order),
                    _ => self.said = Some((true, format!("{}: left alone", order.deed.word()))),
                }
            }
            Mode::Console(console) => {
                let page = self.room.max(1);
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => self.mode = Mode::Board,
                    KeyCode::Up | KeyCode::Char('k') => console.back = console.back.saturating_add(1),
                    KeyCode::Down | KeyCode::Char('j') => console.back = console.back.saturating_sub(1),
                    KeyCode::PageUp | KeyCode::Char('b') => console.back = console.back.saturating_add(page),
                    KeyCode::PageDown | KeyCode::Char(' ') => console.back = console.back.saturating_sub(page),
                    KeyCode::Home | KeyCode::Char('g') => console.back = usize::MAX,
                    KeyCode::End | KeyCode::Char('G') => console.back = 0,
                    KeyCode::Right => console.right = console.right.saturating_add(SIDEWAYS),
                    KeyCode::Left => console.right = console.right.saturating_sub(SIDEWAYS),
                    _ => {}
                }
            }
        }
        None
    }

    fn press_on_board(&mut self, code: KeyCode) -> Option<Leave> {
        self.said = None;
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Leave::Quit),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Tab => {
                self.pane = match self.pane {
                    Pane::Builds => Pane::Queues,
                    Pane::Queues => Pane::Nodes,
                    Pane::Nodes => Pane::Builds,
                }
            }
            KeyCode::Up | KeyCode::Char('k') => self.move_by(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(|at, _| at + 1),
            KeyCode::PageUp => self.move_by(|at, page| at.saturating_sub(page)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.move_by(|at, page| at + page),
            KeyCode::Home | KeyCode::Char('g') => self.move_by(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.move_by(|_, _| usize::MAX),
            KeyCode::Enter | KeyCode::Char('f') => self.follow(),
            KeyCode::Char('a') => self.confirm(Deed::Abort),
            KeyCode::Char('r') => self.confirm(Deed::Retry),
            KeyCode::Char('p') => self.confirm(Deed::Approve),
            _ => {}
        }
        None
    }

    /// Moves in the part that has the keys; in that of builds the first move chooses the one at hand.
    fn move_by(&mut self, to: impl Fn(usize, usize) -> usize) {
        let page = self.room.max(1);
        let last = |count: usize| count.saturating_sub(1);
        match self.pane {
            Pane::Queues => self.queue = to(self.queue, page).min(last(self.view.queues.len())),
            Pane::Nodes => self.node = to(self.node, page).min(last(self.view.nodes.len())),
            Pane::Builds => {
                let rows = &self.view.rows;
                if self.chosen.is_some() {
                    self.at = to(self.at, page).min(last(rows.len()));
                }
                self.chosen = rows.get(self.at).map(|row| row.key.clone());
            }
        }
    }

    /// The build that a key is for, or what to do first.
    fn target(&mut self) -> Option<Row> {
        let row = self.row().cloned();
        if row.is_none() {
            self.said = Some((false, "choose a build first, by the arrow keys".to_owned()));
        }
        row
    }

    fn confirm(&mut self, deed: Deed) {
        let Some(row) = self.target() else { return };
        if let Err(why) = deed.fits(&row) {
            self.said = Some((false, why));
            return;
        }
        let name = row.words.as_ref().map_or("", |words| words.name.as_str());
        let order = Order {
            deed,
            commit: commit(&row).to_owned(),
            key: row.key.clone(),
        };
        self.mode = Mode::Confirm {
            question: order.question(name),
            order,
            seen: false,
        };
    }

    fn begin(&mut self, order: Order) {
        if let Some(doing) = &self.doing {
            self.said = Some((false, format!("{} is not answered yet", doing.what())));
            return;
        }
        match Doing::begin(order, &self.sight) {
            Ok(doing) => self.doing = Some(doing),
            Err(why) => self.said = Some((false, why)),
        }
    }

    fn follow(&mut self) {
        let Some(row) = self.target() else { return };
        match Follower::begin(row.key, &self.sight) {
            Ok(follower) => {
                self.mode = Mode::Console(Console {
                    follower,
                    back: 0,
                    came: 0,
                    right: 0,
                });
            }
            Err(why) => self.said = Some((false, why)),
        }
    }
}
