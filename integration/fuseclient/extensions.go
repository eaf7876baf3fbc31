package fuseclient

import "github.com/hanwen/go-fuse/v2/fuse"

// SecurityContext is an initial security attribute for a new file.
type SecurityContext struct {
	Name  string
	Value []byte
}

// Extensions makes the area behind a create-like request as Linux does for the flags in force: the security context, or
// its empty header, then the supplementary group, if not nil. It is empty if neither was negotiated.
func (c *Client) Extensions(label *SecurityContext, group *uint32) []byte {
	var b []byte
	if c.Flags&fuse.CAP_SECURITY_CTX != 0 {
		if label == nil {
			b = append(b, le32(8, 0)...)
		} else {
			body := append(le32(uint32(len(label.Value)), 0), label.Name...)
			body = append(body, 0)
			body = pad8(append(body, label.Value...))
			b = append(b, le32(uint32(8+len(body)), 1)...)
			b = append(b, body...)
		}
	}
	if c.Flags&fuse.CAP_CREATE_SUPP_GROUP != 0 && group != nil {
		const extGroups = 32
		b = append(b, le32(16, extGroups, 1, *group)...)
	}
	return b
}

func pad8(b []byte) []byte {
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// extend puts an extension area behind the arguments.
func (r *Request) extend(ext []byte) {
	r.Append(ext)
	view[fuse.InHeader](r.in).TotalExtlen = uint16(len(ext) / 8)
}
