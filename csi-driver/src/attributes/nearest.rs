//! Which known word a person probably meant.

/// The known word with the fewest edits to `given`, ignoring case and the domain before a slash; none if
/// more than half of it would have to be typed anew.
pub(super) fn nearest(given: &str, known: &[&'static str]) -> Option<&'static str> {
    let given = stem(given);
    if given.len() > 256 {
        return None;
    }
    known
        .iter()
        .map(|word| (edits(&given, &stem(word)), *word))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, word)| *edits * 2 <= stem(word).len())
        .map(|(_, word)| word)
}

/// How a refusal goes on: with the word meant, or with all there are.
pub(super) fn hint(nearest: Option<&&'static str>) -> String {
    match nearest {
        Some(word) => format!("; did you mean {word}?"),
        None => format!("; known are {}", super::KEYS.join(", ")),
    }
}

fn stem(word: &str) -> String {
    let word = word.rsplit('/').next().unwrap_or(word);
    word.to_lowercase().replace(['-', '_'], "")
}

/// Levenshtein distance, in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, n) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("mode", "mood", 2),
        ] {
            assert_eq!(edits(a, b), n, "{a} {b}");
            assert_eq!(edits(b, a), n, "{b} {a}");
        }
    }
}
