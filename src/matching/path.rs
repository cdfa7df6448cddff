//! Paths: patterns of rules, the normal form of a request path, and which match is the stronger.

use std::{borrow::Cow, cmp::Ordering, fmt};

use serde::{Serialize, Serializer};

/// Paths a rule applies to. Ordered strongest first, so that a sorted list can be tried from the front.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// Equal to the whole path.
    Exact(Box<str>),
    /// The path's first elements; kept without a trailing slash, so `/` is empty.
    Prefix(Box<str>),
    /// Like a prefix, but weaker than a `Prefix` of the same length.
    ImplementationSpecific(Box<str>),
}

impl PathPattern {
    /// An `Exact` rule.
    pub fn exact(path: &str) -> Self {
        Self::Exact(matching_form(path).into())
    }

    /// A `Prefix` rule; `/foo` and `/foo/` are the same.
    pub fn prefix(path: &str) -> Self {
        Self::Prefix(elements(path))
    }

    /// An `ImplementationSpecific` rule; it matches by elements as `Prefix` does.
    pub fn implementation_specific(path: &str) -> Self {
        Self::ImplementationSpecific(elements(path))
    }

    /// Whether the pattern takes the path, given in the form of [`NormalPath::matching`].
    ///
    /// This is the definition; the index in `routing` gives the same result faster.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) | Self::ImplementationSpecific(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Exact(_) => 0,
            Self::Prefix(_) | Self::ImplementationSpecific(_) => 1,
        }
    }

    /// The path; without a trailing slash for prefixes, so the root prefix is empty.
    pub fn text(&self) -> &str {
        let (Self::Exact(text) | Self::Prefix(text) | Self::ImplementationSpecific(text)) = self;
        text
    }

    fn length(&self) -> usize {
        match self {
            Self::Prefix(text) | Self::ImplementationSpecific(text) => text.matches('/').count(),
            Self::Exact(text) => text.len(),
        }
    }
}

impl Ord for PathPattern {
    /// Exact, then prefixes; the longer first; `Prefix` before `ImplementationSpecific`.
    fn cmp(&self, other: &Self) -> Ordering {
        let weaker_kind = |p: &Self| matches!(p, Self::ImplementationSpecific(_));
        self.rank()
            .cmp(&other.rank())
            .then_with(|| other.length().cmp(&self.length()))
            .then_with(|| weaker_kind(self).cmp(&weaker_kind(other)))
            .then_with(|| self.text().cmp(other.text()))
    }
}

impl PartialOrd for PathPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = |prefix: &str| if prefix.is_empty() { "/".to_owned() } else { prefix.to_owned() };
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) => write!(f, "Prefix {}", root(path)),
            Self::ImplementationSpecific(path) => write!(f, "ImplementationSpecific {}", root(path)),
        }
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn elements(path: &str) -> Box<str> {
    let path = matching_form(path);
    path.strip_suffix('/').unwrap_or(&path).into()
}

/// A request path in the two forms it is needed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'a> {
    /// What the backend gets: dot segments removed (RFC 3986 §5.2.4), all else as it came.
    pub forwarded: Cow<'a, str>,
    /// What rules are compared with: besides, slashes merged and unreserved escapes decoded (RFC 3986 §6.2.2).
    pub matching: Cow<'a, str>,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Does not start with a slash.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// An escape that is not two hexadecimal digits.
    #[error("the path has an incomplete percent-escape")]
    BadEscape,
    /// `%00` or a raw control byte.
    #[error("the path has a control character")]
    ControlCharacter,
    /// A decoder behind us would see a dot segment that we do not.
    #[error("the path hides a dot segment")]
    HiddenDotSegment,
}

impl<'a> NormalPath<'a> {
    /// Brings a path (without its query) into normal form.
    ///
    /// `%2F` stays an opaque character of its segment. A path in which decoding `%2F`, `%5C`, `\` or `%2E`, or dropping
    /// `;parameters`, would reveal a dot segment is refused.
    pub fn parse(path: &'a str) -> Result<Self, PathError> {
        if !path.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let mut plain = true;
        let mut previous = 0;
        for byte in path.bytes() {
            if byte < 0x20 || byte == 0x7f {
                return Err(PathError::ControlCharacter);
            }
            plain &= !(byte == b'%' || byte == b'\\' || (previous == b'/' && (byte == b'/' || byte == b'.')));
            previous = byte;
        }
        if plain {
            return Ok(Self { forwarded: Cow::Borrowed(path), matching: Cow::Borrowed(path) });
        }
        check_escapes(path)?;
        if path.split('/').any(hides_dot_segment) {
            return Err(PathError::HiddenDotSegment);
        }
        let forwarded = remove_dot_segments(path);
        let matching = matching_form(&forwarded);
        let matching = if *matching == *path { Cow::Borrowed(path) } else { Cow::Owned(matching.into_owned()) };
        Ok(Self { forwarded, matching })
    }
}

fn check_escapes(path: &str) -> Result<(), PathError> {
    let mut rest = path.as_bytes();
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        match escape(&rest[at..]) {
            None => return Err(PathError::BadEscape),
            Some(0) => return Err(PathError::ControlCharacter),
            Some(_) => rest = &rest[at + 3..],
        }
    }
    Ok(())
}

/// The byte that an escape at the start of `text` stands for.
fn escape(text: &[u8]) -> Option<u8> {
    let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    match text {
        [b'%', high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

fn hides_dot_segment(segment: &str) -> bool {
    if segment == "." || segment == ".." {
        return false; // in plain sight: it is removed
    }
    // One pass of a lenient decoder: separators split, parameters end the element, %2E is a dot.
    let bytes = segment.as_bytes();
    let (mut dots, mut others, mut in_parameters, mut at) = (0_usize, false, false, 0);
    let dot_segment = |dots: usize, others: bool| !others && (dots == 1 || dots == 2);
    while at < bytes.len() {
        let decoded = escape(&bytes[at..]);
        at += if decoded.is_some() { 3 } else { 1 };
        match decoded.unwrap_or_else(|| bytes[at - 1]) {
            b'/' | b'\\' => {
                if dot_segment(dots, others) {
                    return true;
                }
                (dots, others, in_parameters) = (0, false, false);
            }
            b';' => in_parameters = true,
            _ if in_parameters => {}
            b'.' => dots += 1,
            _ => others = true,
        }
    }
    dot_segment(dots, others)
}

/// RFC 3986 §5.2.4 for an absolute path.
fn remove_dot_segments(path: &str) -> Cow<'_, str> {
    if !path.split('/').any(|segment| segment == "." || segment == "..") {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_dots = false;
    for segment in path.split('/').skip(1) {
        ends_in_dots = segment == "." || segment == "..";
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    if ends_in_dots {
        kept.push(""); // `/a/..` names the directory: `/`
    }
    let mut removed = String::with_capacity(path.len());
    for segment in kept {
        removed.push('/');
        removed.push_str(segment);
    }
    Cow::Owned(if removed.is_empty() { "/".to_owned() } else { removed })
}

/// Slashes merged, unreserved escapes decoded, the digits of the others in upper case.
fn matching_form(path: &str) -> Cow<'_, str> {
    if !path.contains('%') && !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let bytes = path.as_bytes();
    let mut form = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escape(&bytes[at..]) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => form.push(byte),
            Some(_) => form.extend(bytes[at..at + 3].iter().map(u8::to_ascii_uppercase)),
            None if bytes[at] == b'/' && form.last() == Some(&b'/') => {}
            None => form.push(bytes[at]),
        }
        at += if bytes[at] == b'%' && escape(&bytes[at..]).is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8(form).unwrap_or_else(|_| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_ingress_api_says() {
        let cases: [(PathPattern, &[&str], &[&str]); 7] = [
            (PathPattern::exact("/foo"), &["/foo"], &["/foo/", "/FOO", "/bar", "/foo/x"]),
            (PathPattern::exact("/foo/"), &["/foo/"], &["/foo", "/foo/x"]),
            (PathPattern::prefix("/foo"), &["/foo", "/foo/", "/foo/x"], &["/FOO", "/foobar", "/"]),
            (PathPattern::prefix("/foo/"), &["/foo", "/foo/", "/foo/x"], &["/FOO", "/foobar"]),
            (PathPattern::prefix("/aaa/bbb"), &["/aaa/bbb", "/aaa/bbb/ccc"], &["/aaa/bbbxyz", "/aaa"]),
            (PathPattern::prefix("/"), &["/", "/x", "/x/y"], &[]),
            (PathPattern::implementation_specific("/foo"), &["/foo", "/foo/", "/foo/x"], &["/foobar"]),
        ];
        for (pattern, yes, no) in cases {
            for path in yes {
                assert!(pattern.matches(path), "{pattern} takes {path}");
            }
            for path in no {
                assert!(!pattern.matches(path), "{pattern} does not take {path}");
            }
        }
    }

    #[test]
    fn stronger_patterns_come_first() {
        let mut patterns = [
            PathPattern::prefix("/"),
            PathPattern::implementation_specific("/aaa/bbb"),
            PathPattern::prefix("/aaaaaaaaaaaaaaaa"),
            PathPattern::prefix("/aaa/bbb"),
            PathPattern::exact("/"),
            PathPattern::prefix("/aaa"),
        ];
        patterns.sort();
        assert_eq!(
            patterns.map(|p| p.to_string()),
            [
                "Exact /",
                "Prefix /aaa/bbb",
                "ImplementationSpecific /aaa/bbb",
                "Prefix /aaa",
                "Prefix /aaaaaaaaaaaaaaaa",
                "Prefix /"
            ]
        );
    }

    #[test]
    fn paths_have_one_normal_form() {
        let cases = [
            ("/", "/", "/"),
            ("/a/b", "/a/b", "/a/b"),
            ("/a/./b", "/a/b", "/a/b"),
            ("/a/../b", "/b", "/b"),
            ("/a/..", "/", "/"),
            ("/a/.", "/a/", "/a/"),
            ("/a/b/..", "/a/", "/a/"),
            ("/../..", "/", "/"),
            ("/../a", "/a", "/a"),
            ("//a///b", "//a///b", "/a/b"),
            ("/a//../b", "/a/b", "/a/b"),
            ("/%61%2D%7e", "/%61%2D%7e", "/a-~"),
            ("/a%2fb", "/a%2fb", "/a%2Fb"),
            ("/a%20b", "/a%20b", "/a%20b"),
            ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
            ("/...", "/...", "/..."),
            ("/a;b=c/d", "/a;b=c/d", "/a;b=c/d"),
            ("/%252e%252e/x", "/%252e%252e/x", "/%252e%252e/x"),
            ("/a%2Eb", "/a%2Eb", "/a.b"),
            ("/caf\u{e9}", "/caf\u{e9}", "/caf\u{e9}"),
        ];
        for (path, forwarded, matching) in cases {
            let normal = NormalPath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!((&*normal.forwarded, &*normal.matching), (forwarded, matching), "{path}");
        }
    }

    #[test]
    fn paths_that_a_decoder_could_read_otherwise_are_refused() {
        use PathError::{BadEscape, ControlCharacter, HiddenDotSegment, NotAbsolute};
        let cases = [
            ("", NotAbsolute),
            ("*", NotAbsolute),
            ("a", NotAbsolute),
            ("/%", BadEscape),
            ("/%2", BadEscape),
            ("/%zz", BadEscape),
            ("/%00", ControlCharacter),
            ("/a\u{1}", ControlCharacter),
            ("/%2e%2e/admin", HiddenDotSegment),
            ("/%2E", HiddenDotSegment),
            ("/.%2e/", HiddenDotSegment),
            ("/a%2f..%2fb", HiddenDotSegment),
            ("/a%2F..", HiddenDotSegment),
            ("/a\\..\\b", HiddenDotSegment),
            ("/..%5cb", HiddenDotSegment),
            ("/..;/admin", HiddenDotSegment),
            ("/.;x=y/admin", HiddenDotSegment),
            ("/a/..%3bx/b", HiddenDotSegment),
        ];
        for (path, expected) in cases {
            assert_eq!(NormalPath::parse(path), Err(expected), "{path}");
        }
    }
}
