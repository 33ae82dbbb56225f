//! A chart of one run: how fast one target was against each other one, work by work.

use std::io;
use std::path::Path;

use plotters::prelude::*;

/// One kind of work.
pub struct Work {
    /// As rows name it, with its fill.
    pub name: String,
    /// The other targets, and how many times faster than each the first one was.
    pub speeds: Vec<(String, f64)>,
}

/// Speeds outside of this are cut off.
const RANGE: (f64, f64) = (1.0 / 32.0, 32.0);
const WIDTH: u32 = 960;
/// For the names of the works.
const LEFT: u32 = 270;
/// For the title and the key.
const TOP: u32 = 70;
const BAR: u32 = 11;
const GAP: u32 = 10;
const COLORS: [RGBColor; 7] = [
    RGBColor(0x0b, 0x6e, 0x4f),
    RGBColor(0x9a, 0xa5, 0xb1),
    RGBColor(0xd9, 0x82, 0x2b),
    RGBColor(0xb5, 0x3d, 0x3d),
    RGBColor(0xe0, 0xa0, 0xa0),
    RGBColor(0x7a, 0x5c, 0xa8),
    RGBColor(0x3a, 0x78, 0xc2),
];

/// Write the chart of `works` to `path`, as SVG: a bar to the right of the middle is a work at which we are faster.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, title: &str, works: &[Work]) -> io::Result<()> {
    draw(path, title, works).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))
}

fn draw(path: &Path, title: &str, works: &[Work]) -> Result<(), Box<dyn std::error::Error>> {
    let mut targets: Vec<&str> = Vec::new();
    for (name, _) in works.iter().flat_map(|w| &w.speeds) {
        if !targets.contains(&name.as_str()) {
            targets.push(name);
        }
    }
    let bars = |w: &Work| w.speeds.len() as u32;
    let height = TOP + works.iter().map(|w| bars(w) * BAR + GAP).sum::<u32>() + 30;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw(&Text::new(title.to_owned(), (10, 8), text(16)))?;
    let x = |speed: f64| {
        let (low, high) = RANGE;
        let part = (speed.clamp(low, high) / low).log2() / (high / low).log2();
        (LEFT + (part * f64::from(WIDTH - LEFT - 60)) as u32) as i32
    };
    let color = |name: &str| COLORS[targets.iter().position(|t| *t == name).unwrap_or(0) % COLORS.len()];
    for (nth, name) in targets.iter().enumerate() {
        let at = (LEFT as i32 + (nth as i32 % 4) * 165, 30 + (nth as i32 / 4) * 15);
        area.draw(&Rectangle::new([at, (at.0 + 10, at.1 + 10)], color(name).filled()))?;
        area.draw(&Text::new((*name).to_owned(), (at.0 + 14, at.1 - 1), text(12)))?;
    }
    let bottom = height as i32 - 24;
    for power in -5..=5 {
        let speed = 2f64.powi(power);
        let weight = if power == 0 { BLACK.mix(0.8) } else { BLACK.mix(0.12) };
        area.draw(&PathElement::new(vec![(x(speed), TOP as i32 - 6), (x(speed), bottom)], weight))?;
        let label =
            if power < 0 { format!("1/{}", 2i32.pow(power.unsigned_abs())) } else { format!("{speed}") };
        area.draw(&Text::new(label, (x(speed) - 6, bottom + 4), text(11)))?;
    }
    area.draw(&Text::new("times faster", (WIDTH as i32 - 110, bottom - 14), text(11)))?;
    let mut y = TOP as i32;
    for work in works {
        let middle = y + (bars(work) * BAR) as i32 / 2 - 7;
        area.draw(&Text::new(work.name.clone(), (10, middle), text(12)))?;
        for (name, speed) in &work.speeds {
            let (one, end) = (x(1.0), x(*speed));
            let bar = [(one.min(end), y), (one.max(end).max(one + 1), y + BAR as i32 - 2)];
            area.draw(&Rectangle::new(bar, color(name).filled()))?;
            let beside = if end >= one { end + 3 } else { end - 30 };
            area.draw(&Text::new(format!("{speed:.2}"), (beside, y - 2), text(10)))?;
            y += BAR as i32;
        }
        y += GAP as i32;
    }
    Ok(area.present()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_and_target_is_in_the_chart() {
        let path = std::env::temp_dir().join(format!("parallax-chart-{}.svg", std::process::id()));
        let speeds = |a, b| vec![("raw".to_owned(), a), ("other".to_owned(), b)];
        let works = [
            Work { name: "read".into(), speeds: speeds(2.0, 0.5) },
            Work { name: "write".into(), speeds: speeds(100.0, 0.001) },
        ];
        write(&path, "a run", &works).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for part in ["a run", "read", "write", "raw", "other", "2.00", "0.50", "100.00"] {
            assert!(text.contains(part), "{part}");
        }
    }
}
