//! Lines of measurements, checked and sorted by whose they are.
//!
//! Owns what a line must say. Invariants: an error names the file and the line;
//! all peers measured the same thing; each peer has at least one point, its points
//! ordered by recall; peers are ordered by name.

use std::collections::BTreeMap;

use serde_json::Value;

/// One operating point of a peer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) recall: f64,
    pub(crate) qps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// What one library showed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) build_s: f64,
    /// The most of its points, where the system tells.
    pub(crate) anon_mb: Option<f64>,
    pub(crate) disk_mb: Option<f64>,
    pub(crate) points: Vec<Point>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) n: u64,
    pub(crate) d: u64,
    pub(crate) metric: String,
    pub(crate) k: u64,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { n, d, metric, k } = self;
        write!(f, "n {n}, d {d}, metric {metric}, k {k}")
    }
}

/// Everything that is shown together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Data {
    pub(crate) setting: Setting,
    pub(crate) peers: Vec<Peer>,
}

/// Reads files, each a name and its text.
pub(crate) fn read(files: &[(String, String)]) -> Result<Data, String> {
    read_of(files, None)
}

/// As [`read`], where something is known to have been measured: every line must be
/// of the same.
pub(crate) fn read_of(files: &[(String, String)], known: Option<&Setting>) -> Result<Data, String> {
    let mut setting = known.cloned();
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    for (file, text) in files {
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            let (found, peer) =
                parse(line).map_err(|error| format!("{file}, line {number}: {error}"))?;
            match &setting {
                None => setting = Some(found),
                Some(first) if *first != found => {
                    let what = known.map_or("the first line is", |_| "this run is");
                    return Err(format!(
                        "{file}, line {number}: it is of {found}, and {what} of {first}; \
                         name the files of one data set and one k"
                    ));
                }
                Some(_) => {}
            }
            match peers.get_mut(&peer.name) {
                None => drop(peers.insert(peer.name.clone(), peer)),
                Some(known) => {
                    merge(known, peer).map_err(|error| format!("{file}, line {number}: {error}"))?
                }
            }
        }
    }
    let setting = setting
        .filter(|_| !peers.is_empty())
        .ok_or("the files hold no measurements")?;
    let mut peers: Vec<Peer> = peers.into_values().collect();
    for peer in &mut peers {
        peer.points.sort_by(|a, b| {
            let by_recall = a.recall.total_cmp(&b.recall);
            by_recall.then(b.qps.total_cmp(&a.qps))
        });
    }
    Ok(Data { setting, peers })
}

/// Adds a point to those of the same run.
fn merge(known: &mut Peer, mut peer: Peer) -> Result<(), String> {
    if (known.build_s, known.disk_mb) != (peer.build_s, peer.disk_mb) {
        return Err(format!(
            "build_s or disk_mb is not that of the lines of {} before: a second run; give one",
            peer.name
        ));
    }
    // f64::max of an Option: none is less than any.
    known.anon_mb = known
        .anon_mb
        .into_iter()
        .chain(peer.anon_mb)
        .reduce(f64::max);
    known.points.append(&mut peer.points);
    Ok(())
}

fn parse(line: &str) -> Result<(Setting, Peer), String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let number = |name: &str| match value.get(name).map(Value::as_f64) {
        Some(Some(number)) if number >= 0.0 => Ok(number),
        _ => Err(format!("{name} must be a number that is not negative")),
    };
    // Memory may have shrunk, and not every system tells.
    let optional = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(found) => match found.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{name} must be a number or null")),
        },
    };
    let whole = |name: &str| match value.get(name).and_then(Value::as_u64) {
        Some(number) if number > 0 => Ok(number),
        _ => Err(format!("{name} must be a whole number from 1")),
    };
    let text = |name: &str| match value.get(name).and_then(Value::as_str) {
        Some(text) if is_name(text) => Ok(text.to_owned()),
        _ => Err(format!(
            "{name} must be a name of letters, digits and - _ . or spaces"
        )),
    };
    let point = Point {
        recall: number("recall")?,
        qps: number("qps")?,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
    };
    if point.recall > 1.0 {
        return Err("recall must be from 0 to 1".to_owned());
    }
    if point.qps == 0.0 {
        return Err("qps must be more than 0".to_owned());
    }
    let setting = Setting {
        n: whole("n")?,
        d: whole("d")?,
        metric: text("metric")?,
        k: whole("k")?,
    };
    let peer = Peer {
        name: text("peer")?,
        build_s: number("build_s")?,
        anon_mb: optional("anon_mb")?,
        disk_mb: optional("disk_mb")?,
        points: vec![point],
    };
    Ok((setting, peer))
}

/// Whether a text can stand in a table and a plot as it is.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    !text.is_empty() && text.len() <= 40 && text.chars().all(plain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A line with the given peer, build time, recall and speed.
    pub(crate) fn line(peer: &str, build_s: f64, recall: f64, qps: f64) -> String {
        format!(
            r#"{{"peer":"{peer}","n":1000,"d":8,"metric":"l2","k":10,"build_s":{build_s},"param":16,"recall":{recall},"qps":{qps},"p50_us":20.5,"p99_us":60,"rss_mb":9,"anon_mb":{recall},"disk_mb":0.0}}"#
        )
    }

    pub(crate) fn read_lines(lines: &[String]) -> Result<Data, String> {
        read(&[("m.jsonl".to_owned(), lines.join("\n"))])
    }

    #[test]
    fn lines_of_any_order_and_file_are_sorted_by_peer_and_recall() {
        let [a, b, c] = [
            line("hnswlib", 2.0, 0.9, 100.0),
            line("esker", 1.0, 0.95, 50.0),
            line("esker", 1.0, 0.8, 90.0),
        ];
        let data = read_lines(&[a.clone(), String::new(), b.clone(), c.clone()]).unwrap();
        let other = read(&[
            ("x".into(), format!("{c}\n")),
            ("y".into(), format!("{b}\n{a}")),
        ]);
        assert_eq!(data, other.unwrap());
        let names: Vec<&str> = data.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, ["esker", "hnswlib"]);
        assert_eq!(data.peers[0].points[0].recall, 0.8);
        assert_eq!(data.peers[0].anon_mb, Some(0.95), "the most");
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let good = line("esker", 1.0, 0.9, 10.0);
        for (bad, part) in [
            ("{".to_owned(), "line 2"),
            ("[1]".to_owned(), "line 2"),
            (good.replace("\"qps\":10,", ""), "qps"),
            (good.replace("\"qps\":10", "\"qps\":0"), "qps"),
            (good.replace("\"recall\":0.9", "\"recall\":1.5"), "recall"),
            (good.replace("\"recall\":0.9", "\"recall\":-1"), "recall"),
            (good.replace("\"esker\"", "\"a|b\""), "peer"),
            (good.replace("\"n\":1000", "\"n\":1.5"), "n must"),
            (
                good.replace("\"anon_mb\":0.9", "\"anon_mb\":\"x\""),
                "anon_mb",
            ),
            (good.replace("\"k\":10", "\"k\":20"), "one k"),
            (good.replace("\"build_s\":1", "\"build_s\":2"), "second run"),
        ] {
            let error = read_lines(&[good.clone(), bad]).unwrap_err();
            assert!(error.starts_with("m.jsonl, line 2: "), "{error}");
            assert!(error.contains(part), "{error}");
        }
        assert!(read_lines(&[]).is_err());
        let known = Setting {
            n: 999,
            ..read_lines(std::slice::from_ref(&good)).unwrap().setting
        };
        let error = read_of(&[("p".to_owned(), good.clone())], Some(&known)).unwrap_err();
        assert!(error.starts_with("p, line 1: "), "{error}");
        assert!(error.contains("this run is of n 999"), "{error}");
        assert!(read_of(&[], Some(&known)).is_err());
        let unknown = good.replace("\"anon_mb\":0.9", "\"anon_mb\":null");
        assert_eq!(read_lines(&[unknown]).unwrap().peers[0].anon_mb, None);
    }
}
