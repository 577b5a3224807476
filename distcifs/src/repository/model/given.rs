//! Which parameters of a build its trigger gave: a bit for each in their order, as hexadecimal digits.

/// Parameters that have a bit; of those after them all count as given.
const BITS_MAX: usize = 1024;

/// The digits for these parameters; none if none was given.
pub(crate) fn pack(given: &[bool]) -> String {
    let digit = |four: &[bool]| {
        let bits = four.iter().enumerate().map(|(at, given)| u32::from(*given) << at);
        char::from_digit(bits.sum(), 16).unwrap_or('0')
    };
    let bits = &given[..given.len().min(BITS_MAX)];
    let digits: String = bits.chunks(4).map(digit).collect();
    digits.trim_end_matches('0').to_owned()
}

/// Whether the parameter of this place was given.
pub(crate) fn has(digits: &str, at: usize) -> bool {
    if at >= BITS_MAX {
        return true;
    }
    let digit = digits
        .as_bytes()
        .get(at / 4)
        .copied()
        .map_or(0, |digit| char::from(digit).to_digit(16).unwrap_or_default());
    digit >> (at % 4) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_known_again() {
        for (given, digits) in [
            (vec![], ""),
            (vec![false; 9], ""),
            (vec![true], "1"),
            (vec![false, true, true, true, true, false], "e1"),
            (vec![true; 8], "ff"),
        ] {
            assert_eq!(pack(&given), digits);
            for (at, was) in given.iter().enumerate() {
                assert_eq!(has(digits, at), *was, "{digits} {at}");
            }
            assert!(!has(digits, given.len() + 4));
        }
        let many = pack(&vec![true; 5000]);
        assert_eq!(many.len(), BITS_MAX / 4);
        assert!(has(&many, 0) && has(&many, BITS_MAX - 1) && has("", BITS_MAX));
    }
}
