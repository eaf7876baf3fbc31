package main

import (
	"image/color"
	"io"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

var colors = []color.Color{
	color.RGBA{0x4e, 0x79, 0xa7, 0xff}, color.RGBA{0xf2, 0x8e, 0x2b, 0xff}, color.RGBA{0x59, 0xa1, 0x4f, 0xff},
	color.RGBA{0xb0, 0x7a, 0xa1, 0xff}, color.RGBA{0xe1, 0x57, 0x59, 0xff}, color.RGBA{0x76, 0xb7, 0xb2, 0xff},
}

// panel is one plot: the medians of one unit of one benchmark over one parameter, a line for each value of the others.
type panel struct {
	name, unit, title, x, xlabel, ylabel string
	only                                 param
	log                                  bool // the x axis
	scale                                float64
}

var panels = []panel{
	{name: "SetupRemove", unit: "pairs/s", title: "set-up and remove", x: "threads", xlabel: "threads", ylabel: "pairs/s", scale: 1},
	{name: "Fault", unit: "ns/fault", title: "a fault of the guest", x: "threads", xlabel: "threads that touch", ylabel: "µs", scale: 1e-3},
	{name: "Reclaim", unit: "ranges/s", title: "reclaim", x: "ranges", xlabel: "ranges mapped", ylabel: "ranges/s", log: true, scale: 1},
	{name: "Reclaim", unit: "MB/s", title: "reclaim", x: "ranges", xlabel: "ranges mapped", ylabel: "MB/s", log: true, scale: 1},
	{name: "WorkingSet", unit: "MB/s", title: "in a guest, mmap", x: "ratio", xlabel: "working set / window", ylabel: "MB/s", only: param{"engine", "mmap"}, log: true, scale: 1},
	{name: "WorkingSet", unit: "MB/s", title: "in a guest, read and write", x: "ratio", xlabel: "working set / window", ylabel: "MB/s", only: param{"engine", "psync"}, log: true, scale: 1},
}

const columns = 2

func svg(w io.Writer, all []measurement) error {
	var drawn []*plot.Plot
	for _, p := range panels {
		pl, err := p.draw(all)
		if err != nil {
			return err
		}
		if pl != nil {
			drawn = append(drawn, pl)
		}
	}
	rows := (len(drawn) + columns - 1) / columns
	canvas := vgsvg.New(28*vg.Centimeter, vg.Length(max(rows, 1))*10*vg.Centimeter)
	tiles := draw.Tiles{Rows: max(rows, 1), Cols: columns, PadX: vg.Centimeter, PadY: vg.Centimeter, PadLeft: vg.Centimeter / 2, PadRight: vg.Centimeter / 2,
		PadTop: vg.Centimeter / 2, PadBottom: vg.Centimeter / 2}
	c := draw.New(canvas)
	for i, pl := range drawn {
		pl.Draw(tiles.At(c, i%columns, i/columns))
	}
	_, err := canvas.WriteTo(w)
	return err
}

// lines returns the points of the panel by line, and the lines in the order in which they come.
func (p panel) lines(all []measurement) (names []string, points map[string]plotter.XYs) {
	points = map[string]plotter.XYs{}
	for _, g := range grouped(all) {
		m := g[0]
		x, err := strconv.ParseFloat(m.param(p.x), 64)
		if m.name != p.name || m.unit != p.unit || err != nil || p.only.name != "" && m.param(p.only.name) != p.only.value {
			continue
		}
		others := measurement{}
		for _, o := range m.params {
			if o.name != p.x && o.name != p.only.name {
				others.params = append(others.params, o)
			}
		}
		name := others.describe()
		if points[name] == nil {
			names = append(names, name)
		}
		points[name] = append(points[name], plotter.XY{X: x, Y: median(g) * p.scale})
	}
	for _, l := range points {
		slices.SortFunc(l, func(a, b plotter.XY) int { return int(math.Copysign(1, a.X-b.X)) })
	}
	return names, points
}

func (p panel) draw(all []measurement) (*plot.Plot, error) {
	names, points := p.lines(all)
	if len(names) == 0 {
		return nil, nil
	}
	pl := plot.New()
	pl.Title.Text, pl.X.Label.Text, pl.Y.Label.Text = p.title, p.xlabel, p.ylabel
	// With its lines to the left of the names it does not matter how wide a viewer draws these.
	pl.Legend.Top, pl.Legend.Left = true, true
	pl.Legend.XOffs = 5 * vg.Centimeter
	var ticks plot.ConstantTicks
	for i, name := range names {
		line, dots, err := plotter.NewLinePoints(points[name])
		if err != nil {
			return nil, err
		}
		line.Color, dots.Color = colors[i%len(colors)], colors[i%len(colors)]
		if i >= len(colors) {
			line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
		}
		pl.Add(line, dots)
		pl.Legend.Add(name, line, dots)
		if i == 0 {
			for _, xy := range points[name] {
				ticks = append(ticks, plot.Tick{Value: xy.X, Label: strconv.FormatFloat(xy.X, 'g', -1, 64)})
			}
		}
	}
	if p.log {
		pl.X.Scale = plot.LogScale{}
	}
	pl.X.Tick.Marker = ticks
	pl.Y.Min = 0
	pl.Y.Max *= 1.6 // room for the legend
	return pl, nil
}
