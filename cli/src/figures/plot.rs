//! The plot: speed over recall, one line for each peer.
//!
//! Owns what it looks like. The recall axis is logarithmic in what is missing to 1,
//! since that is where peers differ: from 0.9 to 0.99 is as far as from 0.99 to
//! 0.999. Lines follow each peer's front; points off it are not shown.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use super::curve::{front, qps_at};
use super::font;
use super::image::{Drawn, Picture};
use super::input::{Data, Peer, Point};
use super::table::{OURS, ranked, thousands};

/// What is shown.
pub(crate) const WHAT: &str = "Queries per second over recall";

const SIZE: (u32, u32) = (960, 560);
/// Room for the legend, to the right of the lines so that it hides none.
const LEGEND_WIDTH: u32 = 160;
const LEGEND_STEP: u32 = 20;
/// Less recall is not shown unless there is no more.
const LEAST_RECALL: f64 = 0.8;
/// A recall of 1 is drawn as this, and less recall than it truly.
const MOST_RECALL: f64 = 0.9998;
const TICKS: [f64; 14] = [
    0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0,
];
/// Colours that also those see apart who do not see all colours; ours is apart.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(184, 134, 11),
    RGBColor(102, 51, 153),
    RGBColor(90, 60, 40),
];
const OUR_COLOUR: RGBColor = RGBColor(213, 47, 0);

/// How one peer is drawn.
#[derive(Clone, Copy)]
struct Look {
    colour: RGBColor,
    width: u32,
    radius: i32,
    marker: usize,
    /// Pixels a unit.
    scale: u32,
}

/// The plot of some measurements.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) data: &'a Data,
}

impl Picture for Plot<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>, scale: u32) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        root.fill(&WHITE)?;
        let scene = Scene::of(self.data);
        scene.draw(root, &self.caption(), scale)?;
        legend(root, self.data, scale)?;
        root.present()?;
        Ok(())
    }
}

impl Plot<'_> {
    fn caption(&self) -> String {
        let (title, setting) = (self.title, &self.data.setting);
        format!(
            "{title}: {} rows of {} dimensions, {}",
            thousands(setting.n as f64),
            setting.d,
            setting.metric
        )
    }
}

/// The lines and what their axes show.
struct Scene<'a> {
    data: &'a Data,
    lines: Vec<(&'a Peer, Vec<(f64, f64)>)>,
    /// The least recall that is shown.
    least: f64,
    x_axis: Axis,
    y_axis: Axis,
}

impl<'a> Scene<'a> {
    fn of(data: &'a Data) -> Self {
        let fronts = data.peers.iter().map(|peer| (peer, front(&peer.points)));
        let fronts: Vec<(&Peer, Vec<&Point>)> = fronts.collect();
        let best = fronts.iter().filter_map(|(_, front)| front.last());
        let best = best.map(|point| point.recall).fold(0.0, f64::max);
        let least = if best > LEAST_RECALL {
            LEAST_RECALL
        } else {
            0.0
        };
        let lines: Vec<(&Peer, Vec<(f64, f64)>)> = fronts
            .iter()
            .map(|(peer, front)| (*peer, visible(front, least)))
            .collect();
        let speeds = lines
            .iter()
            .flat_map(|(_, line)| line.iter().map(|at| at.1));
        let (slowest, fastest) = speeds.fold((f64::MAX, f64::MIN), |(low, high), y| {
            (low.min(y), high.max(y))
        });
        let right = x(best.clamp(0.99, MOST_RECALL)) + 0.15;
        Self {
            data,
            lines,
            least,
            x_axis: Axis {
                range: x(least)..right,
                ticks: TICKS.into_iter().map(x).collect(),
            },
            y_axis: Axis {
                range: slowest - 0.15..fastest + 0.15,
                ticks: speed_ticks(),
            },
        }
    }

    fn draw<DB: DrawingBackend>(
        self,
        root: &DrawingArea<DB, Shift>,
        caption: &str,
        scale: u32,
    ) -> Drawn
    where
        DB::ErrorType: 'static,
    {
        let mut chart = ChartBuilder::on(root)
            .caption(caption, (font::FAMILY, 20 * scale))
            .margin(14 * scale)
            .margin_right((LEGEND_WIDTH + 14) * scale)
            .x_label_area_size(48 * scale)
            .y_label_area_size(72 * scale)
            .build_cartesian_2d(self.x_axis, self.y_axis)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225).stroke_width(scale))
            .axis_style(RGBColor(90, 90, 90).stroke_width(scale))
            .set_all_tick_mark_size(5 * scale)
            .x_desc(format!("recall@{} (more is better)", self.data.setting.k))
            .y_desc("queries per second, one thread (more is better)")
            .x_label_formatter(&|at| recall_label(*at))
            .y_label_formatter(&|at| thousands(at.exp().round()))
            .label_style((font::FAMILY, 14 * scale))
            .draw()?;
        // Ours is drawn last, on top.
        let others = self.lines.iter().filter(|(peer, _)| peer.name != OURS);
        let ours = self.lines.iter().filter(|(peer, _)| peer.name == OURS);
        for (peer, line) in others.chain(ours) {
            let look = look(self.data, &peer.name, scale);
            chart.draw_series(LineSeries::new(line.iter().copied(), look.stroke()))?;
            let edge = x(self.least);
            let points = line.iter().filter(|(x, _)| *x > edge);
            chart.draw_series(points.map(|at| marker(*at, look)))?;
        }
        Ok(())
    }
}

/// Names in the order of the table, which is mostly that of the lines.
fn legend<DB: DrawingBackend>(root: &DrawingArea<DB, Shift>, data: &Data, scale: u32) -> Drawn
where
    DB::ErrorType: 'static,
{
    let at = |x: u32, y: u32| ((x * scale) as i32, (y * scale) as i32);
    let left = SIZE.0 - LEGEND_WIDTH;
    for (peer, row) in ranked(data).into_iter().zip(0..) {
        let look = look(data, &peer.name, scale);
        let y = 60 + row * LEGEND_STEP;
        let line = vec![at(left, y), at(left + 28, y)];
        root.draw(&PathElement::new(line, look.stroke()))?;
        root.draw(&marker(at(left + 14, y), look))?;
        let style = (font::FAMILY, 15 * scale);
        root.draw(&Text::new(peer.name.clone(), at(left + 36, y - 7), style))?;
    }
    Ok(())
}

/// The points of a line that begins at the left edge if the peer's does before it.
fn visible(front: &[&Point], least: f64) -> Vec<(f64, f64)> {
    let mut line = Vec::new();
    let enters = front.first().is_some_and(|first| first.recall < least);
    if enters && let Some(qps) = qps_at(front, least) {
        line.push((x(least), qps.ln()));
    }
    let inside = front.iter().filter(|point| point.recall >= least);
    line.extend(inside.map(|point| (x(point.recall), point.qps.ln())));
    line
}

/// Where a recall is on its axis.
fn x(recall: f64) -> f64 {
    -(1.0 - recall.min(MOST_RECALL)).ln()
}

/// Which recall is at a place of its axis.
fn recall(x: f64) -> f64 {
    1.0 - (-x).exp()
}

fn recall_label(at: f64) -> String {
    if at >= x(MOST_RECALL) {
        "1".to_owned()
    } else {
        format!("{}", (recall(at) * 1e4).round() / 1e4)
    }
}

/// 1, 2 and 5 of each power of ten, as logarithms.
fn speed_ticks() -> Vec<f64> {
    let ticks = (-3..9).flat_map(|power| [1.0, 2.0, 5.0].map(|x| x * 10f64.powi(power)));
    ticks.map(f64::ln).collect()
}

/// A linear axis with ticks where they are wanted.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        from + (f64::from(to - from) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let inside = self.ticks.iter().filter(|tick| self.range.contains(tick));
        inside.copied().collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Looks go by the order of names, so that they do not change with the figures.
fn look(data: &Data, name: &str, scale: u32) -> Look {
    if name == OURS {
        return Look {
            colour: OUR_COLOUR,
            width: 4 * scale,
            radius: 6 * scale as i32,
            scale,
            marker: 0,
        };
    }
    let others = data.peers.iter().filter(|peer| peer.name != OURS);
    let at = others.take_while(|peer| peer.name != name).count();
    let (round, colour) = (at / COLOURS.len(), at % COLOURS.len());
    Look {
        colour: COLOURS[colour],
        width: 2 * scale,
        radius: 4 * scale as i32,
        scale,
        // Another one where the colours begin anew.
        marker: 1 + (round + colour) % 3,
    }
}

impl Look {
    fn stroke(self) -> ShapeStyle {
        self.colour.stroke_width(self.width)
    }
}

/// One point, drawn around `at`.
fn marker<DB, C>(at: C, look: Look) -> DynElement<'static, DB, C>
where
    DB: DrawingBackend,
    C: Clone + 'static,
{
    let Look { colour, radius, .. } = look;
    let thin = colour.stroke_width(2 * look.scale);
    match look.marker {
        0 => Circle::new(at, radius, colour.filled()).into_dyn(),
        1 => TriangleMarker::new(at, radius + 1, colour.filled()).into_dyn(),
        2 => Cross::new(at, radius, thin).into_dyn(),
        _ => Circle::new(at, radius, thin).into_dyn(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Format;
    use crate::figures::input::tests::{line, read_lines};

    fn svg(title: &str, data: &Data) -> String {
        let bytes = Format::Svg.bytes(&Plot { title, data }).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_same_input_gives_the_same_plot_with_every_peer() {
        let data = read_lines(&[
            line("esker", 3.25, 0.7, 90_000.0),
            line("esker", 3.25, 0.9, 40_000.0),
            line("esker", 3.25, 1.0, 400.0),
            line("hnswlib", 2.0, 0.95, 2_000.0),
        ])
        .unwrap();
        let first = svg("small", &data);
        assert_eq!(first, svg("small", &data));
        for part in ["<svg", "esker", "hnswlib", "small", "0.95", "recall@10"] {
            assert!(first.contains(part), "{part}");
        }
    }

    #[test]
    fn low_recalls_are_shown_where_there_are_no_others() {
        let data = read_lines(&[line("esker", 1.0, 0.4, 90.0)]).unwrap();
        assert!(svg("low", &data).contains("<circle"));
    }

    #[test]
    fn a_line_enters_from_the_left_edge() {
        let point = |recall, qps| Point {
            recall,
            qps,
            p50_us: 1.0,
            p99_us: 1.0,
        };
        let (low, high) = (point(0.6, 100.0), point(1.0, 1.0));
        let line = visible(&[&low, &high], 0.8);
        assert_eq!(line.len(), 2);
        assert!((line[0].1 - 10f64.ln()).abs() < 1e-9);
        assert!((recall(line[1].0) - MOST_RECALL).abs() < 1e-9);
    }
}
