//! Label selectors, as the API server reads them: a wrong one is told at the start rather than by every watch.

/// Gives the selector back when the API server would take it.
pub(super) fn selector(text: &str) -> Result<String, String> {
    let wrong = |part: &str| format!("{part:?}: expected KEY, !KEY, KEY=VALUE, KEY!=VALUE or KEY in (VALUE,...)");
    let mut rest = text;
    loop {
        // Commas in parentheses separate values.
        let end = match (rest.find('('), rest.find(',')) {
            (Some(open), Some(comma)) if open < comma => {
                rest.find(')').and_then(|close| Some(close + rest[close..].find(',')?))
            }
            (_, comma) => comma,
        };
        let requirement = &rest[..end.unwrap_or(rest.len())];
        if !is_requirement(requirement.trim()) {
            return Err(wrong(requirement.trim()));
        }
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return Ok(text.to_owned()),
        }
    }
}

fn is_requirement(text: &str) -> bool {
    if let Some(key) = text.strip_prefix('!') {
        return is_key(key);
    }
    for operator in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(operator) {
            return is_key(key.trim()) && is_value(value.trim());
        }
    }
    match text.split_once(char::is_whitespace) {
        None => is_key(text),
        Some((key, set)) => is_key(key) && is_set(set.trim_start()),
    }
}

fn is_set(text: &str) -> bool {
    let list = text.strip_prefix("notin").or_else(|| text.strip_prefix("in")).map(str::trim_start);
    let values = list.and_then(|list| list.strip_prefix('(')?.strip_suffix(')'));
    values.is_some_and(|values| values.split(',').all(|value| is_value(value.trim())))
}

/// A name, with a DNS name and a slash before it if need be.
fn is_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').unwrap_or(("x", text));
    let is_label = |label: &str| !label.is_empty() && is_value(label);
    !name.is_empty() && is_value(name) && prefix.len() <= 253 && prefix.split('.').all(is_label)
}

/// At most 63 letters, digits, dashes, dots and underscores, with a letter or digit at both ends.
fn is_value(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_end = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    let mut bytes = text.bytes();
    text.len() <= 63 && text.bytes().all(is_inner) && is_end(bytes.next()) && is_end(bytes.next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_takes_is_taken() {
        for good in [
            "edge",
            "!edge",
            "edge=yes",
            "edge==yes",
            "edge!=",
            "a=b, c!=d",
            "kubernetes.io/metadata.name in (a, b),x notin (c)",
            "x in (a),y",
        ] {
            assert_eq!(selector(good).as_deref(), Ok(good));
        }
        for bad in ["", "a=b=c", "a,", "a in b", "a in (b", "-a", "a=b c", "a/b/c", "/a", "a b", "=b", "x in (a) y"] {
            assert!(selector(bad).is_err(), "{bad}");
        }
    }
}
