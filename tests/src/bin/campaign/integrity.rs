//! `campaign --integrity`: every damage to every file of databases at rest.
//!
//! Owns its words and what is printed: lines of progress, failures, tables, one JSON
//! object. Must not know: what is damaged, how it is judged.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use esker_tests::integrity::{Campaign, Counts, Effort, Kind, Specimen, Tally};

pub const USAGE: &str = "\
usage: campaign --integrity [--seed S] [--seconds N] [--sample N] [--from N]
                [--to N] [--threads N] [--only WORD] [--case NAME]

  without a limit every case is judged once
  --seed S       what the databases are made from (default 1)
  --seconds N    judge drawn cases of every kind for so long
  --sample N     judge so many cases, evenly spread, of each damage to each file
  --from N       number of the first case of a whole run
  --to N         number of the case before which it ends
  --threads N    workers (default: one for each core)
  --only WORD    files, kinds of files or damages whose name has the word
  --case NAME    judge one case, as a failure names it";

struct Args {
    seed: u64,
    effort: Effort,
    only: Option<String>,
    case: Option<String>,
}

/// Runs the command if the words are its.
pub fn command(words: &[String]) -> Option<ExitCode> {
    let (first, rest) = words.split_first()?;
    if first != "--integrity" {
        return None;
    }
    Some(match parse(rest) {
        Ok(args) => run(&args),
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            ExitCode::from(2)
        }
    })
}

fn parse(words: &[String]) -> Result<Args, String> {
    let mut args = Args {
        seed: 1,
        effort: Effort {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            from: 0,
            to: u64::MAX,
            sample: None,
            seconds: None,
            enough: 25,
        },
        only: None,
        case: None,
    };
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{flag} lacks its value"))?;
        let number = || -> Result<u64, String> {
            let parsed = value.parse();
            parsed.map_err(|_| format!("{flag} takes a number, not {value:?}"))
        };
        match flag.as_str() {
            "--seed" => args.seed = number()?,
            "--seconds" => args.effort.seconds = Some(Duration::from_secs(number()?)),
            "--sample" => args.effort.sample = Some(number()?.max(1)),
            "--from" => args.effort.from = number()?,
            "--to" => args.effort.to = number()?,
            "--threads" => args.effort.threads = number()?.clamp(1, 1024) as usize,
            "--only" => args.only = Some(value.clone()),
            "--case" => args.case = Some(value.clone()),
            _ => return Err(format!("{flag} is not a flag of --integrity")),
        }
    }
    Ok(args)
}

fn run(args: &Args) -> ExitCode {
    let start = Instant::now();
    let seed = args.seed;
    let specimens = vec![Specimen::main(seed), Specimen::tombs(seed)];
    let mut campaign = Campaign::new(seed, specimens);
    if let Some(name) = &args.case {
        return match campaign.one(name) {
            Ok(verdict) => {
                println!("{name}: {verdict}");
                ExitCode::SUCCESS
            }
            Err(what) => {
                println!("{name}: {what}");
                ExitCode::FAILURE
            }
        };
    }
    for specimen in campaign.specimens() {
        let bytes = Kind::ALL.map(|k| format!("{} {}", specimen.bytes_of(k), k.name()));
        println!("{}, bytes: {}", specimen.name(), bytes.join(", "));
    }
    if let Some(word) = &args.only {
        campaign = campaign.only(word);
    }
    println!(
        "seed {seed}, {} cases, {} threads",
        campaign.cases(),
        args.effort.threads
    );
    let tally = campaign.run(&args.effort, &|next, tally| report(start, next, tally));
    for (case, what) in &tally.failures {
        println!("{what}\n  again: campaign --integrity --seed {seed} --case {case}");
    }
    println!("\n{}", tally.tables());
    let places = tally.places();
    if !places.is_empty() {
        println!(
            "damage that changes no answer, and that verify does not see, in places:\n{places}"
        );
    }
    let total = tally.total();
    println!("{}", json(args, &campaign, &tally, start));
    ExitCode::from(u8::from(total.wrong + total.panics > 0))
}

fn report(start: Instant, next: u64, tally: &Tally) {
    let seconds = start.elapsed().as_secs_f64();
    let c = tally.total();
    println!(
        "{seconds:6.0} s: {} cases ({:.0}/s), {} detected, {} harmless, {} wrong, {} panics, next {next}",
        c.cases,
        c.cases as f64 / seconds,
        c.detected(),
        c.harmless,
        c.wrong,
        c.panics
    );
}

fn json(args: &Args, campaign: &Campaign, tally: &Tally, start: Instant) -> serde_json::Value {
    let counts = |c: Counts| {
        serde_json::json!({
            "cases": c.cases,
            "detected": c.detected(),
            "detected_at_open": c.at_open,
            "detected_at_read": c.at_read,
            "detected_elsewhere": c.elsewhere,
            "harmless": c.harmless,
            "verified": c.verified,
            "wrong": c.wrong,
            "panics": c.panics,
        })
    };
    let total = tally.total();
    let mut line = counts(total);
    let kinds = Kind::ALL.map(|kind| (kind.name().to_owned(), counts(tally.of(kind))));
    let more = serde_json::json!({
        "images": null,
        "workloads": null,
        "io_error_sites": null,
        "violations": total.wrong + total.panics,
        "mutants": null,
        "mutants_killed": null,
        "files": serde_json::Map::from_iter(kinds),
        // Unless it was a sample, part of a run, or was cut short.
        "whole": total.cases + tally.unchanged == campaign.cases() && args.only.is_none(),
        "unchanged": tally.unchanged,
        "seconds": start.elapsed().as_secs(),
        "seed": args.seed,
    });
    if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    line
}
