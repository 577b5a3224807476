//! Draws the screen of `top`. All texts have come through `sight::clean` or `follow::shown`: nothing in them steers.

use std::time::Duration;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Clear, Paragraph, Widget, Wrap};

use super::app::{App, Console, Mode, Pane};
use super::facts::State;
use super::page::{age, counted, why, word};

/// Lines of queues and of nodes below their heads, where everything has room.
const QUEUES: u16 = 5;
const NODES: u16 = 3;

/// Lower than this only the part that has the keys is shown.
const LOW: u16 = 20;

/// Lines that say more of the build that is chosen.
const MORE: u16 = 3;

/// Columns of a state, and of a time.
const STATE: u16 = 8;
const TIME: u16 = 7;

/// Narrower than this no time is shown.
const NARROW: u16 = 46;

const KEYS: &str = " arrows choose  f follow  a abort  r retry  p approve  Tab part  ? keys  q quit";

const HELP: &str = "\
up, down, k, j       choose a build; in other parts: scroll
PgUp, PgDn, g, G     a page, to the begin, to the end
Tab                  the next part: builds, queues, nodes
f, Enter             follow the console of the build
a                    abort it          (asks first)
r                    retry it          (asks first)
p                    approve its commit (asks first)
q, Esc, Ctrl-C       quit; out of a console: back
Ctrl-Z               stop, as any program

The tree decides who may do what; if it refuses, its reason is shown.
Any key goes back.";

/// Whether there are colours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) colour: bool,
}

impl Look {
    fn of(self, state: Option<State>) -> Style {
        let colour = match state {
            Some(State::Running) => Color::Cyan,
            Some(State::Held) => Color::Magenta,
            Some(State::Pending) => Color::Yellow,
            Some(State::Failure | State::Error) => Color::Red,
            Some(State::Success) => Color::Green,
            Some(State::Aborted) | None => Color::Reset,
        };
        let style = match state {
            Some(State::Failure | State::Error) => Style::new().add_modifier(Modifier::BOLD),
            _ => Style::new(),
        };
        if self.colour { style.fg(colour) } else { style }
    }

    /// Of what must be seen.
    fn loud(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.colour {
            style.fg(Color::Red)
        } else {
            style.add_modifier(Modifier::REVERSED)
        }
    }
}

fn head() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn bar() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// Writes a text into at most `width` columns of a line.
fn put(buffer: &mut Buffer, area: Rect, x: u16, y: u16, width: u16, text: &str, style: Style) {
    if y < area.bottom() && x < area.right() {
        let width = width.min(area.right() - x);
        buffer.set_stringn(x, y, text, usize::from(width), style);
    }
}

/// A line over the whole width.
fn line(buffer: &mut Buffer, area: Rect, y: u16, text: &str, style: Style) {
    if y < area.bottom() {
        buffer.set_style(Rect::new(area.x, y, area.width, 1), style);
        put(buffer, area, area.x, y, area.width, text, style);
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, look: Look, now: u64) {
    let area = frame.area();
    if area.width == 0 || area.height == 0 {
        return;
    }
    if let Mode::Console(console) = &mut app.mode {
        app.room = usize::from(area.height.saturating_sub(2));
        draw_console(frame.buffer_mut(), area, console);
        let away = troubles(app);
        if let Some(text) = away {
            line(frame.buffer_mut(), area, area.bottom() - 1, &text, look.loud());
        }
        return;
    }
    draw_board(frame.buffer_mut(), area, app, look, now);
    match &mut app.mode {
        Mode::Help => popup(frame, area, " keys ", HELP),
        Mode::Confirm { question, seen, .. } => {
            *seen = true;
            popup(
                frame,
                area,
                " sure? ",
                &format!("{question}\n\ny: yes    any other key: no"),
            );
        }
        Mode::Board | Mode::Console(_) => {}
    }
}

/// What keeps the screen from being new.
fn troubles(app: &App) -> Option<String> {
    let silent = |time: Duration| format!(" the tree does not answer since {} s", time.as_secs());
    let away = app.view.away.as_ref().map(|why| format!(" the tree is away: {why}"));
    app.silent().map(silent).or(away)
}

fn draw_board(buffer: &mut Buffer, area: Rect, app: &mut App, look: Look, now: u64) {
    let view = app.view.clone();
    let title = format!(
        " {}  node {}  session {}  room {}{}",
        view.mount,
        view.fact("node"),
        view.fact("session"),
        view.fact("room"),
        if view.fact("drained") == "yes" { "  drained" } else { "" },
    );
    line(buffer, area, area.y, &title, bar());
    match troubles(app) {
        Some(text) => line(buffer, area, area.y + 1, &text, look.loud()),
        None if !view.ready => line(buffer, area, area.y + 1, " reading the tree", Style::new()),
        None => line(buffer, area, area.y + 1, &format!(" {}", counted(&view)), Style::new()),
    }
    let bottom = area.bottom().saturating_sub(1);
    footer(buffer, area, app, look);
    let inner = Rect::new(area.x, area.y + 2, area.width, bottom.saturating_sub(area.y + 2));
    if inner.height == 0 {
        return;
    }
    if area.height < LOW {
        match app.pane {
            Pane::Builds => builds(buffer, inner, app, look, now),
            Pane::Queues => queues(buffer, inner, app, look, now),
            Pane::Nodes => nodes(buffer, inner, app),
        }
        return;
    }
    let wants = |count: usize, most: u16| 1 + u16::try_from(count).unwrap_or(most).clamp(1, most);
    // On a screen higher than usual they have more of it.
    let more = area.height.saturating_sub(24) / 4;
    let (queue, node) = (
        wants(view.queues.len(), QUEUES + more),
        wants(view.nodes.len(), NODES + more / 2),
    );
    let build = inner.height.saturating_sub(queue + node + MORE);
    let part = |y: u16, height: u16| Rect::new(inner.x, inner.y + y, inner.width, height);
    builds(buffer, part(0, build), app, look, now);
    said(buffer, part(build, MORE), app);
    queues(buffer, part(build + MORE, queue), app, look, now);
    nodes(buffer, part(build + MORE + queue, node), app);
}

fn footer(buffer: &mut Buffer, area: Rect, app: &App, look: Look) {
    let y = area.bottom() - 1;
    match (&app.said, app.doing()) {
        (_, Some(doing)) => line(buffer, area, y, &format!(" {doing} …"), bar()),
        (Some((true, text)), None) => line(buffer, area, y, &format!(" {text}"), bar()),
        (Some((false, text)), None) => line(buffer, area, y, &format!(" {text}"), look.loud()),
        (None, None) => line(buffer, area, y, KEYS, bar()),
    }
}

/// The head of a part, marked where it has the keys.
fn title(buffer: &mut Buffer, area: Rect, text: &str, has_keys: bool) {
    let mark = if has_keys { '>' } else { ' ' };
    line(buffer, area, area.y, &format!("{mark}{text}"), head());
}

fn builds(buffer: &mut Buffer, area: Rect, app: &mut App, look: Look, now: u64) {
    if area.height == 0 {
        return;
    }
    app.room = usize::from(area.height.saturating_sub(1)).max(1);
    app.first = app.first.min(app.at).max((app.at + 1).saturating_sub(app.room));
    let view = app.view.clone();
    let more = match view.left {
        0 => String::new(),
        left => format!(", {left} more are not listed"),
    };
    let text = format!("BUILDS {}{more}", view.rows.len());
    title(buffer, area, &text, app.pane == Pane::Builds);
    let rows = || view.rows.iter().skip(app.first).take(app.room);
    let name = |row: &super::facts::Row| format!("{} {}", row.key.job, row.key.number);
    let widest = rows().map(|row| name(row).len()).max().unwrap_or(0);
    let time = if area.width < NARROW { 0 } else { TIME + 1 };
    let names = u16::try_from(widest).unwrap_or(u16::MAX).min(area.width / 3).max(8);
    for (row, y) in rows().zip(area.y + 1..area.bottom()) {
        let style = look.of(row.state);
        let mut x = area.x + 1;
        put(buffer, area, x, y, STATE, word(row), style);
        x += STATE + 1;
        if time > 0 {
            put(
                buffer,
                area,
                x,
                y,
                TIME,
                &format!("{:>7}", age(row.since, now)),
                Style::new(),
            );
            x += time;
        }
        put(buffer, area, x, y, names, &name(row), head());
        x += names + 1;
        put(buffer, area, x, y, area.width, why(row), Style::new());
        if app.chosen.as_ref() == Some(&row.key) {
            buffer.set_style(Rect::new(area.x, y, area.width, 1), bar());
        }
    }
}

/// More of the build that is chosen.
fn said(buffer: &mut Buffer, area: Rect, app: &App) {
    let Some(row) = app.row() else { return };
    let Some(words) = &row.words else { return };
    let mut text = format!("{} {}: {}", row.key.job, row.key.number, words.why.replace('\n', " | "));
    for (what, value) in [("ref", &words.name), ("commit", &words.commit), ("cause", &words.cause)] {
        if !value.is_empty() {
            text.push_str(&format!("; {what} {value}"));
        }
    }
    Paragraph::new(text).wrap(Wrap { trim: true }).render(area, buffer);
}

fn queues(buffer: &mut Buffer, area: Rect, app: &App, look: Look, now: u64) {
    if area.height == 0 {
        return;
    }
    let view = &app.view;
    let wide = |count: u64| format!("{count:>6}");
    let names = view.queues.iter().map(|queue| queue.name.len()).max().unwrap_or(0);
    let names = u16::try_from(names).unwrap_or(u16::MAX).min(area.width / 3).max(8);
    let text = format!(
        "{:<width$}   open worked  wait  the oldest waits",
        "QUEUES",
        width = usize::from(names)
    );
    title(buffer, area, &text, app.pane == Pane::Queues);
    for (queue, y) in view.queues.iter().skip(app.queue).zip(area.y + 1..area.bottom()) {
        put(buffer, area, area.x + 1, y, names, &queue.name, head());
        let x = area.x + 1 + names + 1;
        // Nobody waits for what waits: somebody should look at it.
        let style = if queue.open > 0 && queue.workers == 0 {
            look.of(Some(State::Pending))
        } else {
            Style::new()
        };
        put(buffer, area, x, y, 6, &wide(queue.open), style);
        put(buffer, area, x + 7, y, 6, &wide(queue.claimed), Style::new());
        put(buffer, area, x + 13, y, 6, &wide(queue.workers), Style::new());
        let oldest = match (queue.closed, queue.oldest.is_empty()) {
            (true, _) => "its tickets are closed to you".to_owned(),
            (false, true) => String::new(),
            (false, false) => format!("{}: {}", age(queue.since, now), queue.why),
        };
        put(buffer, area, x + 21, y, area.width, &oldest, Style::new());
    }
}

fn nodes(buffer: &mut Buffer, area: Rect, app: &App) {
    if area.height == 0 {
        return;
    }
    let view = &app.view;
    let text = format!(
        "NODES {}, their workers that wait   stores: {}; {}",
        view.nodes.len(),
        view.fact("store"),
        view.fact("coordinator")
    );
    title(buffer, area, &text, app.pane == Pane::Nodes);
    for (node, y) in app.view.nodes.iter().skip(app.node).zip(area.y + 1..area.bottom()) {
        let mut text = format!("{}  {}", node.name, node.version);
        for (queue, count, labels) in &node.waiting {
            text.push_str(&format!("  {count} {queue} ({labels})"));
        }
        put(buffer, area, area.x + 1, y, area.width, &text, Style::new());
    }
}

fn draw_console(buffer: &mut Buffer, area: Rect, console: &mut Console) {
    let height = usize::from(area.height.saturating_sub(2));
    let lines = console.follower.lines();
    let all = lines.window(0, 0).1;
    // What somebody reads stays where it is while lines come below it.
    if console.back > 0 {
        console.back = console.back.saturating_add(lines.came().saturating_sub(console.came));
    }
    console.came = lines.came();
    console.back = console.back.min(all.saturating_sub(height));
    let (window, _) = lines.window(height, console.back);
    let key = &console.follower.key;
    let what = match (lines.fault(), console.back) {
        (Some(fault), _) => fault.to_owned(),
        (None, 0) => "followed".to_owned(),
        (None, back) => format!("{back} lines before the end"),
    };
    let text = format!(" console of {} {}: {what}", key.job, key.number);
    line(buffer, area, area.y, &text, bar());
    for (text, y) in window.iter().zip(area.y + 1..area.bottom().saturating_sub(1)) {
        let begin = text.char_indices().nth(console.right).map_or(text.len(), |(at, _)| at);
        put(buffer, area, area.x, y, area.width, &text[begin..], Style::new());
    }
    let keys = " arrows PgUp PgDn scroll  G follow  q back";
    line(buffer, area, area.bottom() - 1, keys, bar());
}

/// A text in a frame in the middle.
fn popup(frame: &mut Frame<'_>, area: Rect, title: &str, text: &str) {
    let width = area.width.min(76);
    let inside = usize::from(width.saturating_sub(2)).max(1);
    let lines: usize = text
        .lines()
        .map(|line| line.chars().count().div_ceil(inside).max(1))
        .sum();
    // A line that is broken between words may take one more.
    let height = u16::try_from(lines + 3).unwrap_or(u16::MAX).min(area.height);
    let place = Rect::new(
        area.x + (area.width - width) / 2,
        area.y + (area.height - height) / 2,
        width,
        height,
    );
    frame.render_widget(Clear, place);
    let text = Paragraph::new(text)
        .wrap(Wrap { trim: false })
        .block(Block::bordered().title(title));
    frame.render_widget(text, place);
}

#[cfg(test)]
mod tests;
