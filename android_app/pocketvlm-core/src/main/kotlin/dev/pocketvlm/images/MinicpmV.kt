package dev.pocketvlm.images

import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Tiling
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.ln
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt

/**
 * The whole picture, and of a large one slices behind it, each of about as many pixels as a square of the bounds has:
 * MiniCPM-V's slice_image (`pocketvlm.images.rules.minicpmv`).
 *
 * @throws dev.pocketvlm.PocketVlmException.ImageUnusable the picture is too narrow
 */
internal fun minicpmv(size: Size, tiling: Tiling): PicturePlan {
    checkAspect(size)
    val tile = tiling.tileSize
    val side = sideOfSlice(tiling)
    val inTiles = { of: Size -> Grid(of.width / tile, of.height / tile) }
    val whole = ofASquaresPixels(size.width.toDouble(), size.height.toDouble(), side, tile)
    val grid = slicedGrid(size, side, tiling)
    if (grid == Grid(1, 1)) return PicturePlan(grid, listOf(whole), 0, 0, null, 0, inTiles(whole))
    val share = { pixels: Int, count: Int -> wholeTimes(pixels.toDouble(), count).toDouble() / count }
    val slice = ofASquaresPixels(share(size.width, grid.across), share(size.height, grid.down), side, tile)
    val canvas = Size(Math.multiplyExact(slice.width, grid.across), Math.multiplyExact(slice.height, grid.down))
    return PicturePlan(grid, listOf(canvas), 0, 0, 0, 0, inTiles(slice), inTiles(whole))
}

internal fun minicpmvProblem(tiling: Tiling): String? {
    if (tiling.thumbnail != "first" || tiling.thumbnailOfSingleTile) {
        return "thumbnail: minicpmv has it first, and none of a picture that is not cut"
    }
    boundsProblem(tiling)?.let { return it }
    val most = checkNotNull(tiling.maxPixels)
    val side = sideOfSlice(tiling)
    return when {
        tiling.minPixels != most || side * side != most -> "max_pixels: $most is no square of a side, or not min_pixels"
        tiling.part != null -> "part: ${tiling.part}, and minicpmv has slices of any size"
        tiling.candidates != slicings(tiling) -> "candidates: minicpmv has all grids of its most slices, in its order"
        else -> null
    }
}

/** Tiles of any slice, at most: sides are rounded to half a tile more, or a narrow one's to the only tile. */
internal fun mostTokensOfSlice(tiling: Tiling): Long {
    val along = sideOfSlice(tiling).toDouble() / tiling.tileSize
    val aspect = sqrt(MOST_ASPECT.toDouble())
    val longest = along * aspect
    return ceil(max((longest + 0.5) * (along / aspect + 0.5), longest + 0.5)).toLong()
}

/** Of the square that has as many pixels as a slice is to have. */
private fun sideOfSlice(tiling: Tiling): Long {
    val most = checkNotNull(tiling.maxPixels)
    var side = sqrt(most.toDouble()).toLong()
    while (side * side > most) side--
    while ((side + 1) * (side + 1) <= most) side++
    return side
}

/** One, and all grids of so many slices as a candidate has at most: no more of them than there are candidates. */
private fun slicings(tiling: Tiling): List<Grid> {
    val grids = arrayListOf(Grid(1, 1))
    var count = 2
    while (count <= tiling.candidates.maxOf { it.tiles } && grids.size <= tiling.candidates.size) {
        for (across in 1..count) if (count % across == 0) grids.add(Grid(across, count / across))
        count++
    }
    return grids
}

/** The nearest multiple, halves to the even one, that is not zero (ensure_divide). */
private fun wholeTimes(pixels: Double, count: Int): Int =
    Math.toIntExact(max(Math.rint(pixels / count).toLong() * count, count.toLong()))

/** As many pixels as the square of this side has, whole tiles a side (find_best_resize). */
private fun ofASquaresPixels(width: Double, height: Double, side: Long, tile: Int): Size {
    val ratio = width / height
    val down = (side / sqrt(ratio)).toLong()
    val across = (down * ratio).toLong()
    return Size(wholeTimes(across.toDouble(), tile), wholeTimes(down.toDouble(), tile))
}

/** Of about as many slices as the picture has squares, the nearest ratio by logarithm (get_sliced_grid). */
private fun slicedGrid(size: Size, side: Long, tiling: Tiling): Grid {
    val squares = ceil((size.width.toLong() * size.height).toDouble() / (side * side))
    val wanted = min(squares, tiling.candidates.maxOf { it.tiles }.toDouble()).toLong()
    var best = Grid(1, 1)
    if (wanted <= 1) return best
    val ratio = ln(size.width.toDouble() / size.height)
    var nearest = Double.POSITIVE_INFINITY
    for (grid in tiling.candidates) {
        val difference = abs(ratio - ln(grid.across.toDouble() / grid.down))
        if (grid.tiles > 1 && abs(grid.tiles - wanted) <= 1 && difference < nearest) {
            best = grid
            nearest = difference
        }
    }
    return best
}
