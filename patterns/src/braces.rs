//! Braces: `{a,b}` stands for either, as in bash. Braces without a comma, or without an end, stand for
//! themselves.

/// Most ways of one pattern.
const WAYS_MAX: usize = 1000;

/// Most bytes of all ways of one pattern.
const BYTES_MAX: usize = 1 << 20;

/// Most braces that are open at once, those without an end too. It bounds the stack, and how often a byte
/// is looked at.
const NESTED_MAX: usize = 16;

/// All that a pattern stands for, in its order.
pub(crate) fn expand(text: &str) -> Result<Vec<String>, String> {
    if nested(text) > NESTED_MAX {
        return Err(format!("must not nest braces deeper than {NESTED_MAX}"));
    }
    ways_of(text)
}

/// How many braces are open at once.
fn nested(text: &str) -> usize {
    let (mut open, mut most, mut bytes) = (0_usize, 0, text.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'{' => open += 1,
            b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

fn ways_of(text: &str) -> Result<Vec<String>, String> {
    let mut ways = vec![String::new()];
    let mut at = 0;
    let bytes = text.as_bytes();
    let mut plain = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'{' => {
                let Some((choices, end)) = choices(text, at)? else {
                    at += 1;
                    continue;
                };
                ways = product(&ways, &[text[plain..at].to_owned()])?;
                ways = product(&ways, &choices)?;
                (at, plain) = (end, end);
            }
            _ => at += 1,
        }
    }
    product(&ways, &[text[plain..].to_owned()])
}

/// What stands between the brace at a place and its end, and where that is; none if it stands for itself.
fn choices(text: &str, start: usize) -> Result<Option<(Vec<String>, usize)>, String> {
    let bytes = text.as_bytes();
    let (mut depth, mut at, mut begun, mut found) = (0, start, start + 1, Vec::new());
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'{' => depth += 1,
            b',' if depth == 1 => {
                found.push(&text[begun..at]);
                begun = at + 1;
            }
            b'}' if depth == 1 => {
                found.push(&text[begun..at]);
                if let [only] = found[..] {
                    return if only.contains("..") {
                        Err(format!("has {{{only}}}, and sequences are not known: write {{a,b,c}}"))
                    } else {
                        Ok(None)
                    };
                }
                let mut all = Vec::new();
                for choice in found {
                    all.extend(ways_of(choice)?);
                    bounded(&all)?;
                }
                return Ok(Some((all, at + 1)));
            }
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    Ok(None)
}

fn product(left: &[String], right: &[String]) -> Result<Vec<String>, String> {
    if left.len().saturating_mul(right.len()) > WAYS_MAX {
        return Err(too_many());
    }
    let all: Vec<String> = left
        .iter()
        .flat_map(|left| right.iter().map(move |right| format!("{left}{right}")))
        .collect();
    bounded(&all)?;
    Ok(all)
}

fn bounded(ways: &[String]) -> Result<(), String> {
    let bytes: usize = ways.iter().map(String::len).sum();
    if ways.len() > WAYS_MAX || bytes > BYTES_MAX {
        return Err(too_many());
    }
    Ok(())
}

fn too_many() -> String {
    format!("must not stand for more than {WAYS_MAX} patterns by its braces")
}
