//! Prints what a flist's hints lead to: `hints FLIST PATH...` lists, for each
//! file in the closure of the paths, the bytes of it that would be fetched.
//!
//! To compare with what a workload really reads; no part of any program.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use lamina_flist::{Flist, FollowSymlinks, SpanSource};

/// Every file's first place in a blob.
fn places(flist: &Flist) -> HashMap<(u16, u32), Vec<String>> {
    let offsets: Vec<Vec<u64>> = (0..flist.blob_count())
        .map(|i| {
            let entries = flist.blob_entries(i).expect("checked");
            entries.map(|entry| entry.offset).collect()
        })
        .collect();
    let mut out: HashMap<_, Vec<String>> = HashMap::new();
    let tree = flist.to_tree().expect("checked");
    for (path, _) in tree.walk() {
        let Ok(inode) = flist.resolve(&path, FollowSymlinks::NotLast) else {
            continue;
        };
        if let Ok(Some(span)) = flist.span_at(&inode, 0)
            && let SpanSource::Blob { blob, offset } = span.source
        {
            let entry = offsets[usize::from(blob)].partition_point(|at| *at <= offset) - 1;
            let path = String::from_utf8_lossy(&path).into_owned();
            out.entry((blob, entry as u32)).or_default().push(path);
        }
    }
    out
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("a flist");
    let bytes = std::fs::read(Path::new(&path)).expect("read the flist");
    let flist = Flist::parse(bytes.into()).expect("parse the flist");
    flist
        .check(&lamina_flist::Limits::default())
        .expect("check the flist");
    let hints = flist.hints().expect("the flist has hints");
    let places = places(&flist);
    let by_path: HashMap<&str, (u16, u32)> = places
        .iter()
        .flat_map(|(place, paths)| paths.iter().map(|path| (path.as_str(), *place)))
        .collect();
    let table = hints.to_table();
    let edges: usize = table.files.iter().map(|file| file.needs.len()).sum();
    let ranges: usize = table.files.iter().map(|file| file.ranges.len()).sum();
    let size = 24 + hints.len() * 8 + ranges * 16 + edges * 4;
    eprintln!(
        "{} files, {ranges} ranges, {edges} edges, {size} bytes",
        hints.len()
    );
    let mut todo = Vec::new();
    for start in arguments {
        let file = by_path.get(start.trim_start_matches('/'));
        match file.and_then(|(blob, entry)| hints.file_at(*blob, *entry)) {
            Some(file) => todo.insert(0, file),
            None => eprintln!("{start}: no hints"),
        }
    }
    let mut seen = HashSet::new();
    while let Some(file) = todo.pop() {
        if !seen.insert(file) {
            continue;
        }
        let mut bytes = 0;
        let mut first = None;
        for range in hints.ranges(file) {
            first = first.or(Some((range.blob, range.first_entry)));
            let entries = flist
                .blob_entries(usize::from(range.blob))
                .expect("checked");
            let entries = entries.skip(range.first_entry as usize);
            bytes += entries
                .take(range.count as usize)
                .map(|entry| u64::from(entry.len))
                .sum::<u64>();
        }
        let names = first.and_then(|place| places.get(&place));
        println!(
            "{bytes} {}",
            names.map_or("?".into(), |names| names.join(" "))
        );
        let needs: Vec<u32> = hints.needs(file).collect();
        todo.extend(needs.into_iter().rev());
    }
}
