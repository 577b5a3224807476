//! Colours of terminals as classes of our style sheet: a page may say no colours of its own (its policy forbids styles
//! in elements), and so nothing of a console gets into a style.

use std::fmt::Write;

/// Red, green and blue.
type Rgb = (u8, u8, u8);

/// What consoles are shown on.
const GROUND: Rgb = (0x15, 0x1a, 0x20);

/// Contrast that letters have against that (WCAG AA).
const CONTRAST: f64 = 4.5;

/// The sixteen colours that have names, and their bright ones.
const NAMED: [Rgb; 16] = [
    (0x00, 0x00, 0x00),
    (0xe0, 0x6c, 0x75),
    (0x7f, 0xb9, 0x5a),
    (0xd1, 0x9a, 0x3b),
    (0x61, 0xa6, 0xe8),
    (0xc6, 0x78, 0xdd),
    (0x56, 0xb6, 0xc2),
    (0xc8, 0xcc, 0xd4),
    (0x84, 0x8b, 0x98),
    (0xff, 0x87, 0x87),
    (0xa3, 0xe0, 0x7a),
    (0xf5, 0xc9, 0x6a),
    (0x8a, 0xc4, 0xff),
    (0xe3, 0x9d, 0xf7),
    (0x7f, 0xdd, 0xe8),
    (0xff, 0xff, 0xff),
];

/// One of the 256 colours.
fn colour(index: u8) -> Rgb {
    let step = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
    match index {
        0..=15 => NAMED[usize::from(index)],
        16..=231 => {
            let n = index - 16;
            (step(n / 36), step(n / 6 % 6), step(n % 6))
        }
        232..=255 => {
            let grey = 8 + 10 * (index - 232);
            (grey, grey, grey)
        }
    }
}

/// The one of the 256 that is nearest to a colour of 24 bits.
pub(super) fn nearest(red: u8, green: u8, blue: u8) -> u8 {
    let far = |index: &u8| {
        let (r, g, b) = colour(*index);
        let part = |a: u8, b: u8| (i32::from(a) - i32::from(b)).pow(2);
        part(r, red) + part(g, green) + part(b, blue)
    };
    (16..=255).min_by_key(far).unwrap_or(15)
}

fn light((red, green, blue): Rgb) -> f64 {
    let part = |value: u8| {
        let value = f64::from(value) / 255.0;
        if value <= 0.040_45 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue)
}

fn contrast(a: Rgb, b: Rgb) -> f64 {
    let (a, b) = (light(a), light(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// The colour, as much lighter as letters of it need to be read.
fn readable(mut rgb: Rgb) -> Rgb {
    while contrast(rgb, GROUND) < CONTRAST {
        let more = |value: u8| value.saturating_add(8);
        rgb = (more(rgb.0), more(rgb.1), more(rgb.2));
    }
    rgb
}

/// The rules: `f` for letters, `h` for letters on a colour of their own, `g` for what is behind them.
pub(crate) fn style() -> String {
    let mut text = String::new();
    for index in 0..=255 {
        let rgb = colour(index);
        let hex = |(r, g, b): Rgb| format!("#{r:02x}{g:02x}{b:02x}");
        let (read, plain) = (hex(readable(rgb)), hex(rgb));
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            ".f{index}{{color:{read}}}.h{index}{{color:{plain}}}.g{index}{{background:{plain}}}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_can_be_read() {
        for index in 0..=255 {
            assert!(contrast(readable(colour(index)), GROUND) >= CONTRAST, "{index}");
        }
        assert!(style().len() < 24 << 10);
    }

    #[test]
    fn colours_of_24_bits_have_a_neighbour() {
        assert_eq!(nearest(255, 0, 0), 196);
        assert_eq!(nearest(0, 0, 0), 16);
        assert_eq!(nearest(129, 129, 129), 244);
    }
}
