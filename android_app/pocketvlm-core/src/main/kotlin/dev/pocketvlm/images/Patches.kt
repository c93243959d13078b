package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import kotlin.math.abs
import kotlin.math.cos
import kotlin.math.pow
import kotlin.math.sin

/** Calls [use] with row and column of each patch of a picture, tile by tile, along the rows of each. */
private inline fun eachPlace(grid: Grid, ratio: Int, use: (Int, Int) -> Unit) {
    for (tile in 0 until grid.tiles.toInt()) for (patch in 0 until ratio * ratio) {
        use(tile / grid.across * ratio + patch / ratio, tile % grid.across * ratio + patch % ratio)
    }
}

/**
 * cos and sin [tiles, ratio * ratio, headDim / 2] of a picture's patches: the first half turns with the row, the second with
 * the column (`pocketvlm.images.patches` of Python). Without [theta] nothing turns.
 */
internal fun axialRope(grid: Grid, ratio: Int, headDim: Int, theta: Double?): Pair<FloatArray, FloatArray> {
    val half = headDim / 2
    val frequencies = DoubleArray(half / 2) { theta?.pow(-2.0 * it / half) ?: 0.0 }
    val size = Math.multiplyExact(Math.multiplyExact(grid.tiles.toInt(), ratio * ratio), half)
    val cosines = FloatArray(size)
    val sines = FloatArray(size)
    var out = 0
    eachPlace(grid, ratio) { row, column ->
        for (at in intArrayOf(row, column)) for (frequency in frequencies) {
            cosines[out] = cos(at * frequency).toFloat()
            sines[out++] = sin(at * frequency).toFloat()
        }
    }
    return cosines to sines
}

/**
 * Squares of tiles whose patches see each other alone. [tiles]: [windows, side * side], the tile at each place, 0 where there
 * is none; [mask]: [windows, side * side * ratio * ratio], 1 where there is a patch; [positions]: [tiles], where in [tiles],
 * read on, each stands.
 */
internal class Windows(val count: Int, val tiles: LongArray, val mask: IntArray, val positions: LongArray)

/** Of [side] x [side] tiles; those at the right and the bottom may lack some. */
internal fun windowsOf(grid: Grid, side: Int, ratio: Int): Windows {
    val columns = (grid.across + side - 1) / side
    val count = columns * ((grid.down + side - 1) / side)
    val places = side * side
    val patches = ratio * ratio
    val tiles = LongArray(Math.multiplyExact(count, places))
    val mask = IntArray(Math.multiplyExact(tiles.size, patches))
    val positions = LongArray(grid.tiles.toInt())
    for (at in tiles.indices) {
        val window = at / places
        val row = window / columns * side + at % places / side
        val column = window % columns * side + at % side
        if (row >= grid.down || column >= grid.across) continue
        val tile = row * grid.across + column
        tiles[at] = tile.toLong()
        positions[tile] = at.toLong()
        mask.fill(1, at * patches, (at + 1) * patches)
    }
    return Windows(count, tiles, mask, positions)
}

/** Of a place on one axis: its two neighbours in a table, with their shares. */
private class Neighbours(val first: Int, val second: Int, val ofFirst: Float, val ofSecond: Float)

private fun neighbours(count: Int, side: Int): List<Neighbours> = List(count) { place ->
    val at = place.toFloat() * (side - 1).toFloat() / maxOf(count - 1, 1).toFloat()
    val first = at.toInt()
    val share = at - first.toFloat()
    Neighbours(first, minOf(first + 1, side - 1), 1f - share, share)
}

/** A learned table of positions [side, side, width] stretched over a picture: [tiles, ratio * ratio, width]. */
internal fun interpolated(grid: Grid, ratio: Int, table: FloatArray, side: Int): FloatArray {
    val width = table.size / (side * side)
    val rows = neighbours(grid.down * ratio, side)
    val columns = neighbours(grid.across * ratio, side)
    val found = FloatArray(Math.multiplyExact(Math.multiplyExact(grid.tiles.toInt(), ratio * ratio), width))
    var out = 0
    fun add(row: Int, column: Int, share: Float) {
        val from = (row * side + column) * width
        for (i in 0 until width) found[out + i] += table[from + i] * share
    }
    eachPlace(grid, ratio) { y, x ->
        val row = rows[y]
        val column = columns[x]
        add(row.first, column.first, row.ofFirst * column.ofFirst)
        add(row.first, column.second, row.ofFirst * column.ofSecond)
        add(row.second, column.first, row.ofSecond * column.ofFirst)
        add(row.second, column.second, row.ofSecond * column.ofSecond)
        out += width
    }
    return found
}

/** Of two learned tables [2, side, width] the sum of each patch's rows, by its column in the first and its row in the second. */
internal fun byAxis(grid: Grid, ratio: Int, table: FloatArray, side: Int): FloatArray {
    val width = table.size / (2 * side)
    val found = FloatArray(Math.multiplyExact(Math.multiplyExact(grid.tiles.toInt(), ratio * ratio), width))
    var out = 0
    eachPlace(grid, ratio) { y, x ->
        for (i in 0 until width) found[out++] = table[x * width + i] + table[(side + y) * width + i]
    }
    return found
}

/** Of a learned table of positions [side, side, width] the entry that each patch falls into: [tiles, ratio * ratio, width]. */
internal fun bucketed(grid: Grid, ratio: Int, table: FloatArray, side: Int): FloatArray {
    val width = table.size / (side * side)
    val rows = grid.down * ratio
    val columns = grid.across * ratio
    val found = FloatArray(Math.multiplyExact(Math.multiplyExact(rows, columns), width))
    var out = 0
    eachPlace(grid, ratio) { y, x ->
        val from = (y * side / rows * side + x * side / columns) * width
        table.copyInto(found, out, from, from + width)
        out += width
    }
    return found
}

/**
 * What a resampler adds to its keys, [tiles, width]: a quarter of the channels each are sines and cosines of the column, then
 * of the row, in float32.
 */
internal fun sincosRows(grid: Grid, width: Int): FloatArray {
    val quarter = width / 4
    val found = FloatArray(Math.multiplyExact(grid.tiles.toInt(), 4 * quarter))
    for (at in 0 until quarter) {
        val frequency = (1 / 10000.0.pow((at.toFloat() / quarter).toDouble())).toFloat()
        for (tile in 0 until grid.tiles.toInt()) {
            val column = tile % grid.across * frequency
            val row = tile / grid.across * frequency
            var out = tile * 4 * quarter + at
            for (wave in floatArrayOf(sin(column), cos(column), sin(row), cos(row))) {
                found[out] = wave
                out += quarter
            }
        }
    }
    return found
}

/** Of a place on one axis: the rows of a table from [first] on that make it, with their [shares]. */
private class Triangle(val first: Int, val shares: DoubleArray)

private fun triangles(count: Int, side: Int): List<Triangle> {
    val scale = side.toDouble() / count
    val width = maxOf(scale, 1.0)
    return List(count) { place ->
        val middle = (place + 0.5) * scale
        val first = maxOf((middle - width + 0.5).toInt(), 0)
        val last = minOf((middle + width + 0.5).toInt(), side)
        val near = DoubleArray(last - first) { maxOf(0.0, 1 - abs((first + it - middle + 0.5) / width)) }
        val sum = near.sum()
        Triangle(first, DoubleArray(near.size) { near[it] / sum })
    }
}

/**
 * A learned table of positions [side, side, width] resized to a picture as an image is: [tiles, ratio * ratio, width]. A
 * triangle as wide as a patch is in the table, and no less than a row.
 */
internal fun antialiased(grid: Grid, ratio: Int, table: FloatArray, side: Int): FloatArray {
    val width = table.size / (side * side)
    val columns = triangles(grid.across * ratio, side)
    val found = FloatArray(Math.multiplyExact(Math.multiplyExact(grid.tiles.toInt(), ratio * ratio), width))
    val row = DoubleArray(side * width)
    val patch = DoubleArray(width)
    for ((y, down) in triangles(grid.down * ratio, side).withIndex()) {
        row.fill(0.0)
        for ((tap, share) in down.shares.withIndex()) {
            val from = (down.first + tap) * row.size
            for (i in row.indices) row[i] += table[from + i] * share
        }
        for ((x, across) in columns.withIndex()) {
            patch.fill(0.0)
            for ((tap, share) in across.shares.withIndex()) {
                val from = (across.first + tap) * width
                for (i in patch.indices) patch[i] += row[from + i] * share
            }
            val tile = y / ratio * grid.across + x / ratio
            val to = (tile * ratio * ratio + y % ratio * ratio + x % ratio) * width
            for (i in patch.indices) found[to + i] = patch[i].toFloat()
        }
    }
    return found
}
