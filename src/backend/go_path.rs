//! Go's `path.Join`, which makes the state keys of all workspaces but `default`.

/// Joins the parts that are not empty with `/` and cleans the result: no empty element, no `.`,
/// no `..` but at the beginning of a relative path.
pub(super) fn join(parts: &[&str]) -> String {
    let parts: Vec<_> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return String::new();
    }
    clean(&parts.join("/"))
}

fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if rooted => {}
            element => kept.push(element),
        }
    }
    match (rooted, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => kept.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_cleaned_as_go_does() {
        let cases: [(&[&str], &str); 14] = [
            (&[], ""),
            (&["", ""], ""),
            (&["env:", "dev", "a/b"], "env:/dev/a/b"),
            (&["", "dev", "k"], "dev/k"),
            (&["p", "w", "./odd/k"], "p/w/odd/k"),
            (&["p", "w", "a/../k"], "p/w/k"),
            (&["p", "..", "k"], "k"),
            (&["..", "..", "k"], "../../k"),
            (&["p", "../../x", "k"], "../x/k"),
            (&["/p", "../..", "k"], "/k"),
            (&["a//b", "c/"], "a/b/c"),
            (&["."], "."),
            (&["a", ".."], "."),
            (&["/", ".."], "/"),
        ];
        for (parts, joined) in cases {
            assert_eq!(join(parts), joined, "{parts:?}");
        }
    }
}
