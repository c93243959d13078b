package dev.pocketvlm.sample

import android.content.Context
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.RectF
import android.util.AttributeSet
import android.view.View

/** A picture, whole and in the middle, with the tiles that the model cuts it into drawn over it. */
public class TilesView(context: Context, attributes: AttributeSet?) : View(context, attributes) {
    internal var picture: SeenPicture? = null
        set(value) {
            field = value
            invalidate()
        }

    private val smooth = Paint(Paint.FILTER_BITMAP_FLAG)
    private val edge = stroke(Color.WHITE, 3f)
    private val line = stroke(context.getColor(R.color.tile), 1.5f)
    private val place = RectF()

    private fun stroke(color: Int, dp: Float) = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        style = Paint.Style.STROKE
        strokeWidth = dp * resources.displayMetrics.density
        this.color = color
    }

    override fun onDraw(canvas: Canvas) {
        val shown = picture ?: return
        val scale = minOf(width.toFloat() / shown.width, height.toFloat() / shown.height)
        val left = (width - shown.width * scale) / 2
        val top = (height - shown.height * scale) / 2
        place.set(left, top, left + shown.width * scale, top + shown.height * scale)
        val bitmap = shown.bitmap
        if (bitmap == null) canvas.drawRect(place, line) else canvas.drawBitmap(bitmap, null, place, smooth)
        // White below the colour: one of the two is seen on any picture.
        for (paint in listOf(edge, line)) for (area in shown.tiling?.areas.orEmpty()) {
            place.set(left + area.left * scale, top + area.top * scale, left + area.right * scale, top + area.bottom * scale)
            canvas.drawRect(place, paint)
        }
    }
}
