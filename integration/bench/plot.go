package main

import (
	"fmt"
	"image/color"
	"io"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

var barColors = []color.Color{
	color.RGBA{0x4e, 0x79, 0xa7, 0xff}, color.RGBA{0xf2, 0x8e, 0x2b, 0xff}, color.RGBA{0x59, 0xa1, 0x4f, 0xff}, color.RGBA{0xb0, 0x7a, 0xa1, 0xff},
}

// metric is what a plot shows of a row.
type metric struct {
	title string
	of    func(result) float64
}

var plotted = []metric{
	{"operations per second, %s / %s (up is better)", ops},
	{"processor time per operation, %s / %s (down is better)", cpu},
}

// svg draws, for each other daemon, ratios by workload, one bar for each depth.
func (p *report) svg(w io.Writer) error {
	var plots [][]*plot.Plot
	for _, t := range p.targets[1:] {
		for _, m := range plotted {
			pl, err := p.ratios(t, m)
			if err != nil {
				return err
			}
			if pl != nil {
				plots = append(plots, []*plot.Plot{pl})
			}
		}
	}
	if len(plots) == 0 {
		return nil
	}
	canvas := vgsvg.New(30*vg.Centimeter, vg.Length(len(plots))*9*vg.Centimeter)
	tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadX: vg.Centimeter, PadY: vg.Centimeter, PadLeft: vg.Centimeter / 2, PadRight: vg.Centimeter / 2,
		PadTop: vg.Centimeter / 2, PadBottom: vg.Centimeter / 2}
	for i, c := range plot.Align(plots, tiles, draw.New(canvas)) {
		plots[i][0].Draw(c[0])
	}
	_, err := canvas.WriteTo(w)
	return err
}

// doublings are marks of a logarithmic axis at powers of two.
type doublings struct{}

func (doublings) Ticks(low, high float64) (marks []plot.Tick) {
	step := math.Ceil((high - low) / 8)
	for e := math.Ceil(low/step) * step; e <= high; e += step {
		label := fmt.Sprintf("%g", math.Exp2(e))
		if e < 0 {
			label = fmt.Sprintf("1/%g", math.Exp2(-e))
		}
		marks = append(marks, plot.Tick{Value: e, Label: label})
	}
	return marks
}

// series is the bars of one depth and number of queues.
type series struct{ depth, queues int }

func (s series) String() string {
	if s.queues == 1 {
		return fmt.Sprintf("depth %d", s.depth)
	}
	return fmt.Sprintf("depth %d, %d queues", s.depth, s.queues)
}

func (p *report) ratios(t *target, m metric) (*plot.Plot, error) {
	var names []string
	var all []series
	values := map[series]map[string]float64{}
	for i, r := range p.rows {
		a, b := p.out[i][p.targets[0]], p.out[i][t]
		if a.err != nil || b.err != nil || r.w.beside != nil {
			continue
		}
		v := math.Log2(ratio(a, b, m.of))
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		s := series{r.depth, r.queues}
		if values[s] == nil {
			values[s] = map[string]float64{}
			all = append(all, s)
		}
		if len(names) == 0 || names[len(names)-1] != r.w.name {
			known := false
			for _, n := range names {
				known = known || n == r.w.name
			}
			if !known {
				names = append(names, r.w.name)
			}
		}
		values[s][r.w.name] = v
	}
	if len(names) == 0 {
		return nil, nil
	}
	pl := plot.New()
	pl.Title.Text = fmt.Sprintf(m.title, p.targets[0].name, t.name)
	pl.Title.Padding = vg.Points(18) // for the legend
	pl.Y.Tick.Marker = doublings{}
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	pl.Add(grid)
	pl.Legend.Top, pl.Legend.Left = true, true
	pl.Legend.YOffs = vg.Points(16 * float64(len(all)-1))
	width := vg.Points(min(14, 560/float64(len(names)*len(all))))
	for k, s := range all {
		var v plotter.Values
		for _, n := range names {
			v = append(v, values[s][n])
		}
		bars, err := plotter.NewBarChart(v, width)
		if err != nil {
			return nil, err
		}
		bars.Color = barColors[k%len(barColors)]
		bars.LineStyle.Width = 0
		bars.Offset = width * vg.Length(float64(k)-float64(len(all)-1)/2)
		pl.Add(bars)
		pl.Legend.Add(s.String(), bars)
	}
	one := plotter.NewFunction(func(float64) float64 { return 0 })
	pl.Add(one)
	pl.NominalX(names...)
	pl.X.Min, pl.X.Max = -0.5, float64(len(names))-0.5
	pl.X.Tick.Label.Rotation = math.Pi / 6
	pl.X.Tick.Label.XAlign = draw.XRight
	pl.X.Tick.Label.YAlign = draw.YTop
	pl.X.Padding = vg.Points(4)
	return pl, nil
}
