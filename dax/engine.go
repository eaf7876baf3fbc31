package dax

type engine struct{}

func (e *engine) start(m *Manager) {}
func (e *engine) stop()            {}
func (e *engine) kick()            {}
