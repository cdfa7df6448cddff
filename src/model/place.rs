//! Where an object stands in a file, and at which line each of its fields.
//!
//! The lines of fields are looked for when somebody asks, never on the way to traffic.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use self::lines::Lines;

/// Where an object stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// Path of the file.
    pub file: PathBuf,
    /// Number of the YAML document in it, from one.
    pub document: usize,
    /// Number of the document's first line, its `---` when it has one, from one.
    pub line: usize,
    /// The document as it was read: the file may be another by now.
    pub text: Arc<Text>,
    /// The object in its document: empty for the document itself, `items[0]` for the first one of a list.
    pub path: String,
}

impl Place {
    /// Line of a field of the object, such as `spec.rules[0].host`; of the nearest that holds it where it is not written.
    pub fn line_of(&self, field: &str) -> usize {
        let path = [&*self.path, field].join(if self.path.is_empty() || field.is_empty() { "" } else { "." });
        let lines = self.text.lines.get_or_init(|| Lines::read(&self.text.text));
        lines.find(&path).map_or(self.line, |line| self.line + line - 1)
    }
}

/// The text of a document. Its lines are looked for at the first question, once for all the objects in it.
pub struct Text {
    text: String,
    lines: OnceLock<Lines>,
}

impl Text {
    /// The text as it stands.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { text, lines: OnceLock::new() }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Text {}

impl fmt::Debug for Place {
    /// Leaves the text out: it may be that of a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("file", &self.file)
            .field("document", &self.document)
            .field("line", &self.line)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Place {
    /// `file:document`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.document)
    }
}

#[cfg(not(feature = "kubernetes"))]
mod lines {
    //! Without files there is nothing to look into.

    pub(super) struct Lines;

    impl Lines {
        pub(super) fn read(_text: &str) -> Self {
            Self
        }

        pub(super) fn find(&self, _path: &str) -> Option<usize> {
            None
        }
    }
}

#[cfg(feature = "kubernetes")]
mod lines {
    use std::fmt;

    use serde::{
        Deserialize, Deserializer,
        de::{MapAccess, SeqAccess, Visitor},
    };
    use serde_saphyr::Spanned;

    /// Where the parts of a document stand.
    pub(super) struct Lines(Node);

    impl Lines {
        /// The lines of a document; none of a text that is not YAML.
        pub(super) fn read(text: &str) -> Self {
            Self(serde_saphyr::from_str(text).unwrap_or(Node::Leaf))
        }

        /// Line of the deepest part of a path that is written, from one; None when no part of it is.
        pub(super) fn find(&self, path: &str) -> Option<usize> {
            let (mut node, mut rest, mut found) = (&self.0, path, None);
            while let Some((line, inner, after)) = node.step(rest) {
                (node, rest, found) = (inner, after, Some(line));
            }
            found
        }
    }

    /// What a document is made of, as far as paths lead.
    enum Node {
        Map(Vec<(Spanned<String>, Node)>),
        List(Vec<Spanned<Node>>),
        Leaf,
    }

    impl Node {
        /// The line and the value of the part that a path begins with, and what is left of the path.
        fn step<'a>(&self, path: &'a str) -> Option<(usize, &Self, &'a str)> {
            let (at, node, rest) = match self {
                Self::Leaf => return None,
                // Keys hold dots and slashes as they like, so that only the keys that are there can tell where one ends.
                Self::Map(entries) => {
                    let of_path = entries.iter().filter_map(|(key, node)| {
                        let rest = after(path, &key.value)?;
                        Some((key, node, rest))
                    });
                    let (key, node, rest) = of_path.max_by_key(|(key, ..)| key.value.len())?;
                    (key.referenced, node, rest)
                }
                Self::List(items) => {
                    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                    let item = items.get(index.parse::<usize>().ok()?)?;
                    (item.referenced, &item.value, rest)
                }
            };
            Some((usize::try_from(at.line()).ok().filter(|line| *line > 0)?, node, rest))
        }
    }

    /// What follows a key at the beginning of a path: `.key` or `[key]`.
    fn after<'a>(path: &'a str, key: &str) -> Option<&'a str> {
        let in_brackets = || path.strip_prefix('[')?.strip_prefix(key)?.strip_prefix(']');
        let bare = path.strip_prefix('.').unwrap_or(path).strip_prefix(key);
        bare.filter(|rest| rest.is_empty() || rest.starts_with(['.', '['])).or_else(in_brackets)
    }

    impl<'de> Deserialize<'de> for Node {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Nodes)
        }
    }

    struct Nodes;

    impl<'de> Visitor<'de> for Nodes {
        type Value = Node;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("YAML")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(Node::Map(entries))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                items.push(item);
            }
            Ok(Node::List(items))
        }

        fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
            Ok(Node::Leaf)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
            Ok(Node::Leaf)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
            Ok(Node::Leaf)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
            Ok(Node::Leaf)
        }

        fn visit_str<E>(self, _: &str) -> Result<Node, E> {
            Ok(Node::Leaf)
        }

        fn visit_unit<E>(self) -> Result<Node, E> {
            Ok(Node::Leaf)
        }
    }
}

#[cfg(all(test, feature = "kubernetes"))]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment
kind: Ingress
metadata:
  name: shop
  annotations:
    pierhead.dev/ssl-redirect: \"false\"
    pierhead.dev/ssl-redirect.more: 1
spec:
  tls:
  - hosts: [a.example,
      b.example]
  - {}
  empty:
  rules:
    - host: a.example
      http:
        paths:
          - {path: /, pathType: Prefix}
          -
            path: /two
            pathType: Exact
            backend: {service: {name: one, port: {number: 80}}, ratio: 0.5, on: true, none: ~, minus: -1}
  text: |
    rules:
  1: a number
  json: {\"a\": {\"b\": 1,
    \"c\": [1, 2]}}
";

    fn text(text: &str) -> Arc<Text> {
        Arc::new(Text::from(text.to_owned()))
    }

    #[test]
    fn each_field_has_its_line() {
        let place = Place { file: "a.yaml".into(), document: 2, line: 11, text: text(TEXT), path: String::new() };
        let cases = [
            ("", 1),
            ("kind", 2),
            ("metadata.name", 4),
            ("metadata.annotations[pierhead.dev/ssl-redirect]", 6),
            ("metadata.annotations.pierhead.dev/ssl-redirect", 6),
            ("metadata.annotations[pierhead.dev/ssl-redirect.more]", 7),
            ("metadata.annotations.pierhead.dev/ssl-redirect.more", 7),
            ("metadata.annotations[not.there]", 5),
            ("spec.tls[0]", 10),
            ("spec.tls[0].hosts[1]", 11),
            ("spec.tls[1].hosts[1]", 12),
            ("spec.tls[2]", 9),
            ("spec.empty.more[0]", 13),
            ("spec.rules[0].host", 15),
            ("spec.rules[0].http.paths[0]", 18),
            ("spec.rules[0].http.paths[0].backend.service.name", 18),
            ("spec.rules[0].http.paths[1]", 20),
            ("spec.rules[0].http.paths[1].pathType", 21),
            ("spec.rules[0].http.paths[1].backend.service.name", 22),
            ("spec.rules[x]", 14),
            ("spec.ruleset", 8),
            ("spec.text", 23),
            ("spec.json.a.c[1]", 27),
            ("nowhere", 1),
        ];
        for (field, line) in cases {
            assert_eq!(place.line_of(field), line + 10, "{field}");
        }
    }

    #[test]
    fn fields_of_an_item_are_looked_for_in_it() {
        const LIST: &str = "kind: List\nitems:\n- kind: Service\n- kind: Service\n  metadata:\n    name: two\n";
        let place =
            |path: &str| Place { file: "a.yaml".into(), document: 1, line: 1, text: text(LIST), path: path.to_owned() };
        assert_eq!(place("items[1]").line_of("metadata.name"), 6);
        assert_eq!(place("items[1]").line_of(""), 4);
        assert_eq!(place("items[0]").line_of("metadata.name"), 3);
    }

    #[test]
    fn a_place_does_not_print_its_text() {
        let place = Place { file: "a.yaml".into(), document: 1, line: 1, text: text("key: x9"), path: String::new() };
        assert!(!format!("{place:?}").contains("x9"));
    }
}
