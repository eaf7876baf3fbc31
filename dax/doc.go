// Package dax owns the DAX window.
package dax
