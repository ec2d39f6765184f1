//! Reads Java's properties syntax, so that a `server.properties` means here what it means to Kafka.
//! Comments, all three separators, escapes, continuation lines and Unicode escapes are understood; later duplicates win,
//! as in Java, and the earlier ones are reported so that nobody is surprised. It knows nothing of settings.

use thiserror::Error;

/// One `key = value` of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Property {
    /// Line on which it begins, counted from 1.
    pub(super) line: usize,
    /// The key, escapes resolved.
    pub(super) key: String,
    /// The value, escapes resolved.
    pub(super) value: String,
}

/// A line that is not properties syntax.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: \\u must be followed by four hexadecimal digits that name a character")]
pub(super) struct PropertiesError {
    /// Line on which the property begins, counted from 1.
    pub(super) line: usize,
}

/// Every property of a file in its order, duplicates included.
pub(super) fn parse(text: &str) -> Result<Vec<Property>, PropertiesError> {
    let mut properties = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let mut logical = first.trim_start_matches(is_blank).to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while ends_in_continuation(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(is_blank));
        }
        let line = index + 1;
        let (key, value) = split(&logical);
        properties.push(Property { line, key: unescape(key, line)?, value: unescape(value, line)? });
    }
    Ok(properties)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

/// An odd number of backslashes at the end joins the next line; an even number is backslashes.
fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Splits at the first unescaped `=`, `:` or blank; blanks around one `=` or `:` belong to the separator.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c| {
        let ends = !escaped && (is_blank(c) || c == '=' || c == ':');
        escaped = !escaped && c == '\\';
        ends
    });
    let Some(end) = end else { return (line, "") };
    let rest = line[end..].trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start_matches(is_blank))
}

fn unescape(text: &str, line: usize) -> Result<String, PropertiesError> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    // Java counts in UTF-16: a character outside the basic plane is written as two escapes.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let push = |units: &mut Vec<u16>, c: char| units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(&mut units, c);
            continue;
        }
        match chars.next() {
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let four = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| four);
                units.push(unit.ok_or(PropertiesError { line })?);
            }
            Some('n') => push(&mut units, '\n'),
            Some('t') => push(&mut units, '\t'),
            Some('r') => push(&mut units, '\r'),
            Some('f') => push(&mut units, '\u{c}'),
            Some(other) => push(&mut units, other),
            None => {}
        }
    }
    String::from_utf16(&units).map_err(|_| PropertiesError { line })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(usize, &str, &str)]) {
        let parsed = parse(text).unwrap();
        let seen: Vec<_> = parsed.iter().map(|p| (p.line, &*p.key, &*p.value)).collect();
        assert_eq!(seen, expect);
    }

    #[test]
    fn separators_are_equals_colon_and_blank() {
        check(
            "a=1\nb : 2\nc 3\nd\n e = =x",
            &[(1, "a", "1"), (2, "b", "2"), (3, "c", "3"), (4, "d", ""), (5, "e", "=x")],
        );
    }

    #[test]
    fn comments_and_empty_lines_are_skipped_and_trailing_blanks_kept() {
        check("# a=1\n  ! b=2\n\n \t\nc=3 ", &[(5, "c", "3 ")]);
    }

    #[test]
    fn continuation_lines_join_without_their_indent() {
        check("listeners=A://:1,\\\n    B://:2\nx=y", &[(1, "listeners", "A://:1,B://:2"), (3, "x", "y")]);
        check("a=b\\\\\nc=d", &[(1, "a", "b\\"), (2, "c", "d")]);
        check("a=b\\", &[(1, "a", "b")]);
        check("a=1,\\\n#2", &[(1, "a", "1,#2")]);
    }

    #[test]
    fn escapes_are_resolved_in_keys_and_values() {
        check(r"a\=b\:c\ d=\u00e9\t\q\ud83d\ude00", &[(1, "a=b:c d", "é\tq😀")]);
    }

    #[test]
    fn windows_line_ends_are_line_ends() {
        check("a=1\r\nb=2\\\r\n3", &[(1, "a", "1"), (2, "b", "23")]);
    }

    #[test]
    fn duplicates_are_all_reported_in_order() {
        check("a=1\na=2", &[(1, "a", "1"), (2, "a", "2")]);
    }

    #[test]
    fn a_broken_unicode_escape_names_its_line() {
        for broken in ["\\u12", "\\u12g4", "\\u+123", "\\ud800"] {
            assert_eq!(parse(&format!("a=1\nb={broken}")), Err(PropertiesError { line: 2 }));
        }
    }
}
