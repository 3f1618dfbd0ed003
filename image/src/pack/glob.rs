//! Patterns of paths to leave out, as `tar --exclude` and `.dockerignore` do.
//!
//! `*` and `?` stop at `/`, `**` does not, `[a-z]` is a set. A pattern without
//! a slash matches a name at any depth; one with a slash the whole path.

use std::str::FromStr;

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
    whole_path: bool,
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern: {why}")]
pub struct GlobError {
    text: String,
    why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    Any,
    /// `*`
    Star,
    /// `**`
    Stars,
    Set {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let fail = |why| GlobError {
            text: text.to_owned(),
            why,
        };
        let pattern = text
            .trim_start_matches('/')
            .trim_end_matches('/')
            .as_bytes();
        if pattern.is_empty() {
            return Err(fail("it is empty"));
        }
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            tokens.push(match first {
                b'*' if rest.starts_with(b"*") => {
                    rest = &rest[1..];
                    Token::Stars
                }
                b'*' => Token::Star,
                b'?' => Token::Any,
                b'[' => set(&mut rest).ok_or_else(|| fail("a set is not closed"))?,
                b'\\' => {
                    let (&next, after) = rest
                        .split_first()
                        .ok_or_else(|| fail("it ends in a backslash"))?;
                    rest = after;
                    Token::Byte(next)
                }
                byte => Token::Byte(byte),
            });
        }
        let whole_path = text.starts_with('/') || pattern.contains(&b'/');
        Ok(Self { tokens, whole_path })
    }
}

fn set(rest: &mut &[u8]) -> Option<Token> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let body = &rest[usize::from(negated)..];
    // A `]` right at the start is a member.
    let end = 1 + body.get(1..)?.iter().position(|b| *b == b']')?;
    let (mut members, mut ranges) = (&body[..end], Vec::new());
    while let Some((&low, after)) = members.split_first() {
        if let [b'-', high, more @ ..] = after {
            ranges.push((low, *high));
            members = more;
        } else {
            ranges.push((low, low));
            members = after;
        }
    }
    *rest = &body[end + 1..];
    Some(Token::Set { negated, ranges })
}

impl Glob {
    /// Whether `path` (relative, no leading slash) is meant.
    pub fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
        let text = if self.whole_path { path } else { name };
        // Sets of reachable token positions: linear in pattern times path.
        let mut reached = vec![false; self.tokens.len() + 1];
        reached[0] = true;
        self.skip_stars(&mut reached);
        for byte in text {
            let mut next = vec![false; reached.len()];
            for (at, token) in self
                .tokens
                .iter()
                .enumerate()
                .filter(|(at, _)| reached[*at])
            {
                let (stays, moves) = token.takes(*byte);
                next[at] |= stays;
                next[at + 1] |= moves;
            }
            self.skip_stars(&mut next);
            reached = next;
        }
        reached[self.tokens.len()]
    }

    /// Stars may match nothing; `**/` may match no directory at all.
    fn skip_stars(&self, reached: &mut [bool]) {
        for at in 0..self.tokens.len() {
            if !reached[at] {
                continue;
            }
            match self.tokens[at] {
                Token::Star => reached[at + 1] = true,
                Token::Stars => {
                    reached[at + 1] = true;
                    if self.tokens.get(at + 1) == Some(&Token::Byte(b'/')) {
                        reached[at + 2] = true;
                    }
                }
                _ => {}
            }
        }
    }
}

impl Token {
    /// Whether the token takes `byte` and stays, and whether it moves on.
    fn takes(&self, byte: u8) -> (bool, bool) {
        match self {
            Self::Byte(b) => (false, *b == byte),
            Self::Any => (false, byte != b'/'),
            Self::Star => (byte != b'/', false),
            Self::Stars => (true, false),
            Self::Set { negated, ranges } => {
                let inside = ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&byte));
                (false, byte != b'/' && inside != *negated)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, path, want) in [
            ("*.pyc", "a/b/c.pyc", true),
            ("*.pyc", "c.py", false),
            ("/tmp", "tmp", true),
            ("/tmp", "var/tmp", false),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/b/c", false),
            ("a/**/c", "a/b/b/c", true),
            ("a/**/c", "a/c", true),
            ("**/x", "x", true),
            ("[a-c]?", "b1", true),
            ("[!a-c]?", "b1", false),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("a/", "a", true),
        ] {
            let glob: Glob = pattern.parse().unwrap();
            assert_eq!(glob.matches(path.as_bytes()), want, "{pattern} {path}");
        }
        for bad in ["", "/", "[a", "a\\"] {
            assert!(bad.parse::<Glob>().is_err(), "{bad}");
        }
    }
}
